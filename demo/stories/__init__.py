"""Little stories with the prompts that ask for them: the demo's own corpus, written by a grammar.

`generate(seed, n)` gives the same stories on every machine. One combination of requested
attributes in eight is held out of the corpus (`held_out=True` gives those alone), so that prompts
exist which a model trained on the corpus has never seen.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from demo.stories import compose
from demo.stories.plots import PLOTS

__all__ = ["Story", "count_words", "generate", "is_held_out", "unmet_requests"]

_CUES = {plot.key: plot.cues for plot in PLOTS}
# Bounds in words, from the shortest long and the longest short story that the grammar tells.
SHORT_WORDS_AT_MOST = 80
LONG_WORDS_AT_LEAST = 46


@dataclass(frozen=True)
class Story:
    """A prompt, the story that answers it, and what the prompt asked for (attribute to value)."""

    prompt: str
    response: str
    attributes: dict[str, str]


def generate(seed: int, n: int, *, held_out: bool = False) -> list[Story]:
    """Return `n` stories, drawn independently from the grammar.

    The requests of `held_out` stories are disjoint, as combinations of attributes, from those of
    the others, whatever the seeds.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    stories: list[Story] = []
    while len(stories) < n:
        request = compose.draw_request(rng)
        if is_held_out(request) is held_out:
            prompt = compose.word_prompt(rng, request)
            stories.append(Story(prompt, compose.tell(rng, request), request))
    return stories


def is_held_out(attributes: dict[str, str]) -> bool:
    """Say whether this combination of attributes is kept out of the corpus (one in eight).

    A combination of one or two attributes is always in the corpus: there are too few of these to
    do without any.
    """
    if len(attributes) < 3:
        return False
    return zlib.crc32(json.dumps(attributes, sort_keys=True).encode()) % 8 == 0


def unmet_requests(attributes: dict[str, str], text: str) -> list[str]:
    """Return the names of the requested attributes that `text` does not show, by its words.

    Checks kind, name, plot, object, place, weather, length and a moral. A trait, a colour, a mood
    or an open end does not show in single words and is not checked.
    """
    lowered = text.lower()
    words = count_words(text)
    met: dict[str, Callable[[str], bool]] = {
        "kind": lambda kind: _has_word(lowered, kind),
        "name": lambda name: _has_word(text, name),
        "plot": lambda plot: any(cue in lowered for cue in _CUES[plot]),
        "object": lambda thing: _has_word(lowered, thing),
        "place": lambda place: _has_word(lowered, place),
        "weather": lambda weather: weather in lowered,
        "length": lambda length: (
            words <= SHORT_WORDS_AT_MOST if length == "short" else words >= LONG_WORDS_AT_LEAST
        ),
        "ending": lambda ending: ending != "moral" or "moral" in lowered,
    }
    return [name for name, value in attributes.items() if name in met and not met[name](value)]


def count_words(text: str) -> int:
    """Return the number of words: runs of letters, with apostrophes inside them."""
    return len(re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*", text))


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None
