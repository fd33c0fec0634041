"""The grammar of little stories: it says what was asked, in whole sentences, and hardly ever twice."""

import random
import re
import statistics

import pytest

from demo import stories
from demo.stories import compose, lexicon
from demo.stories.plots import PLOTS

NAMES = [*lexicon.NAMES["she"], *lexicon.NAMES["he"]]


@pytest.fixture(scope="module")
def told() -> list[stories.Story]:
    return stories.generate(0, 5_000)


def test_the_same_seed_tells_the_same_stories_and_another_tells_others() -> None:
    assert stories.generate(7, 50) == stories.generate(7, 50)
    assert stories.generate(7, 50) != stories.generate(8, 50)


def test_more_stories_begin_with_the_same_stories() -> None:
    assert stories.generate(7, 80)[:50] == stories.generate(7, 50)


def test_thousands_of_stories_are_distinct(told: list[stories.Story]) -> None:
    assert len({each.response for each in told}) > 4_990
    assert len({each.prompt for each in told}) > 4_800


def test_every_kind_plot_place_and_mood_is_asked_for(told: list[stories.Story]) -> None:
    asked = {item for each in told for item in each.attributes.items()}
    assert {("kind", kind.noun) for kind in lexicon.KINDS} <= asked
    assert {("plot", plot.key) for plot in PLOTS} <= asked
    assert {("place", place.noun) for place in lexicon.PLACES} <= asked
    assert {("weather", weather.word) for weather in lexicon.WEATHERS} <= asked
    assert {("mood", mood) for mood in lexicon.MOODS} <= asked
    assert {("name", name) for name in NAMES} <= asked


def test_every_story_shows_what_its_prompt_asked_for(told: list[stories.Story]) -> None:
    unmet = {
        each.prompt: missing
        for each in told
        if (missing := stories.unmet_requests(each.attributes, each.response))
    }
    assert unmet == {}


def test_every_prompt_names_what_it_asks_for(told: list[stories.Story]) -> None:
    for each in told:
        for attribute in ("kind", "trait", "name", "object", "colour", "place", "weather"):
            assert each.attributes.get(attribute, "") in each.prompt


def test_stories_are_whole_sentences_with_one_space_between_them(
    told: list[stories.Story],
) -> None:
    for each in told:
        for text in (each.prompt, each.response):
            assert "  " not in text and text == text.strip()
            assert not re.search(r"[{}]|None| [,.!?]", text), text
            assert text[0].isupper() and text[-1] in '.!?"', text
            assert not re.search(r"[.!?] [a-z]", re.sub(r'"[^"]*"', "", text)), text
        assert each.response.count('"') % 2 == 0
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", each.prompt + " " + each.response)


def test_a_hero_keeps_one_name_and_one_pronoun(told: list[stories.Story]) -> None:
    for each in told:
        names = {name for name in NAMES if re.search(rf"\b{name}\b", each.response)}
        assert len(names) <= 1, each.response
        name = next(iter(names), None)
        kind = next(kind for kind in lexicon.KINDS if kind.noun == each.attributes["kind"])
        gender = kind.gender if name is None else ("she" if name in lexicon.NAMES["she"] else "he")
        other = {"she": "he", "he": "she"}[gender]
        assert not re.search(rf"\b{other}\b", each.response, re.IGNORECASE), each.response


def test_a_pronoun_after_a_verb_or_preposition_is_an_object(told: list[stories.Story]) -> None:
    for each in told:
        assert not re.search(
            r"\b(?:asked|see|told|for|to|with|took|lifted) (?:he|she)\b", each.response
        ), each.response


def test_requests_that_are_held_out_are_in_no_corpus_whatever_the_seeds() -> None:
    def combinations(told: list[stories.Story]) -> set[tuple[tuple[str, str], ...]]:
        return {tuple(sorted(each.attributes.items())) for each in told}

    kept_out = combinations(stories.generate(3, 2_000, held_out=True))
    corpus = combinations(stories.generate(0, 20_000))
    assert len(kept_out) > 1_900
    assert not kept_out & corpus


def test_a_long_story_is_longer_than_a_short_one(told: list[stories.Story]) -> None:
    words = {
        length: [
            stories.count_words(each.response)
            for each in told
            if each.attributes.get("length") == length
        ]
        for length in lexicon.LENGTHS
    }
    assert statistics.mean(words["long"]) > 1.6 * statistics.mean(words["short"])


def test_four_stories_for_one_prompt_differ_in_words_and_length() -> None:
    rng = random.Random(0)
    lengths, same = [], 0
    for _ in range(300):
        request = compose.draw_request(rng)
        four = [compose.tell(rng, request) for _ in range(4)]
        same += len(set(four)) < 4
        lengths.append(max(map(stories.count_words, four)) - min(map(stories.count_words, four)))
    assert same == 0
    assert statistics.mean(lengths) > 15


@pytest.mark.parametrize(
    ("attributes", "text", "unmet"),
    [
        ({"kind": "fox", "name": "Ruby"}, "Ruby was a fox.", []),
        ({"kind": "fox", "name": "Ruby"}, "Mia was a foxglove.", ["kind", "name"]),
        ({"kind": "cat", "place": "forest"}, "A cat lived by the lake.", ["place"]),
        ({"kind": "cat", "object": "bell"}, "A cat had a key.", ["object"]),
        ({"kind": "cat", "plot": "storm"}, "A cat slept.", ["plot"]),
        ({"kind": "cat", "weather": "snow"}, "A cat sat in the deep snow.", []),
        ({"kind": "cat", "length": "long"}, "A cat slept.", ["length"]),
        ({"kind": "cat", "length": "short"}, "A cat slept. " * 40, ["length"]),
        ({"kind": "cat", "ending": "moral"}, "A cat slept.", ["ending"]),
    ],
)
def test_what_a_text_does_not_show_is_named(
    attributes: dict[str, str], text: str, unmet: list[str]
) -> None:
    assert stories.unmet_requests(attributes, text) == unmet


def test_words_are_counted_with_their_apostrophes() -> None:
    assert stories.count_words("\"Don't!\" said the fox's aunt.") == 5
