"""Draw a request, word it as a prompt, and tell a story that follows it.

All choices come from one `random.Random`, in pure Python, so a seed gives the same stories on every
machine. A story is a list of beats (opening, weather, setup, dialogue, turn, closing ...), of which
the wanted length decides how many are told.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from demo.stories import lexicon, phrases
from demo.stories.lexicon import Kind, Place, Weather, article
from demo.stories.plots import PLOTS, Plot

_KINDS = {kind.noun: kind for kind in lexicon.KINDS}
_PLACES = {place.noun: place for place in lexicon.PLACES}
_WEATHERS = {weather.word: weather for weather in lexicon.WEATHERS}
_PLOTS = {plot.key: plot for plot in PLOTS}
_GENDER_OF_NAME = {name: gender for gender, names in lexicon.NAMES.items() for name in names}
_PRONOUNS = {
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}

# How often a prompt asks for each attribute. Low enough that most prompts leave room, so that
# several stories for one prompt differ in what the prompt left open.
REQUEST_SHARES = {
    "trait": 0.45,
    "name": 0.4,
    "plot": 0.6,
    "object": 0.15,
    "place": 0.45,
    "weather": 0.2,
    "mood": 0.4,
    "length": 0.35,
    "ending": 0.12,
}

# Beats of a story in the order of telling; the first three in every story.
_ALWAYS = ("opening", "setup", "turn")
_ORDER = (
    "opening",
    "trait",
    "weather",
    "keepsake",
    "setup",
    "line",
    "attempt",
    "helper",
    "feeling",
    "turn",
    "closing",
    "moral",
)
# Told beats for each requested length; without a request anything from 3 to 9.
BEATS = {"short": (3, 4), "long": (7, 9)}
_FREE_BEATS = (3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9)
# The share of a story's plain sentences that end in "!", and how often each share is drawn: some
# stories are calm, some lively, and some can hardly sit still.
_EXCITEMENT = ((0.0, 0.3, 0.75), (40, 35, 25))


def draw_request(rng: random.Random) -> dict[str, str]:
    """Return what a prompt asks for: attribute names to values, the hero's `kind` always there.

    Keys: kind, trait, name, plot, object, colour, place, weather, mood, length, ending.
    """

    def wanted(attribute: str) -> bool:
        return rng.random() < REQUEST_SHARES[attribute]

    kind = rng.choice(lexicon.KINDS)
    request = {"kind": kind.noun}
    if wanted("trait"):
        request["trait"] = rng.choice(lexicon.TRAITS)
    if wanted("name"):
        request["name"] = _draw_name(rng, kind)
    plot = rng.choice(PLOTS) if wanted("plot") else None
    if plot:
        request["plot"] = plot.key
    if (plot and plot.has_object) or wanted("object"):
        request["object"] = rng.choice(lexicon.OBJECTS)
        if rng.random() < 0.5:
            request["colour"] = rng.choice(lexicon.COLOURS)
    if wanted("place"):
        request["place"] = rng.choice(lexicon.PLACES).noun
    if (plot is None or plot.key != "storm") and wanted("weather"):
        request["weather"] = rng.choice(lexicon.WEATHERS).word
    if wanted("mood"):
        request["mood"] = rng.choice(lexicon.MOODS)
    if wanted("length"):
        request["length"] = rng.choice(lexicon.LENGTHS)
    if wanted("ending"):
        request["ending"] = rng.choice(("moral", "open"))
    return request


def word_prompt(rng: random.Random, request: dict[str, str]) -> str:
    """Return one wording of `request` as a user would type it."""
    extras: list[str] = []
    length = request.get("length", "")
    if length and rng.random() < 0.4:
        extras.append(
            rng.choice(("Keep it short.", "A few sentences are enough."))
            if length == "short"
            else rng.choice(("Make it a long one.", "Take your time."))
        )
        length = ""
    mood = request.get("mood", "")
    if mood and rng.random() < 0.4:
        extras.append(_word_mood(mood))
        mood = ""
    subject = _word_hero(rng, request, extras)
    about = f"{article(' '.join(filter(None, (length, mood, 'story'))))} about {subject}"
    if "ending" in request:
        extras.append(
            rng.choice(("End with a moral.", "It should have a moral."))
            if request["ending"] == "moral"
            else rng.choice(("Leave the ending open.", "Do not tell how it ends."))
        )
    rng.shuffle(extras)
    start = rng.choice(
        (
            f"Tell me {about}.",
            f"Tell me {about}.",
            f"Write {about}.",
            f"Please write {about}.",
            f"Please tell me {about}.",
            f"Can you tell me {about}?",
            f"Could you write {about}?",
            f"I would like {about}.",
            f"Make up {about}.",
        )
    )
    return " ".join((start, *extras))


def _word_mood(mood: str) -> str:
    return {
        "happy": "Give it a happy ending.",
        "sad": "Give it a sad ending.",
        "funny": "Make it funny.",
        "scary": "Make it scary.",
        "bedtime": "It is for bedtime.",
    }[mood]


def _word_hero(rng: random.Random, request: dict[str, str], extras: list[str]) -> str:
    """Return the noun phrase of the hero with clause and setting; the rest goes to `extras`."""
    kind = request["kind"]
    words = article(" ".join(filter(None, (request.get("trait", ""), kind))))
    if "name" in request:
        if rng.random() < 0.7:
            words += f" {rng.choice(('named', 'called'))} {request['name']}"
        else:
            extras.append(f"Call the {kind} {request['name']}.")
    plot = _PLOTS.get(request.get("plot", ""))
    an_object = _an_object(request)
    if plot:
        words += " " + rng.choice(plot.requests).format(an_object=an_object)
    if "object" in request and not (plot and plot.has_object):
        extras.append(
            rng.choice((f"Put {an_object} in it.", f"There should be {an_object} in it."))
        )
    if "place" in request:
        phrase = _PLACES[request["place"]].phrase
        if "weather" not in request and rng.random() < 0.7:
            words += f" {phrase}"
        else:
            extras.append(rng.choice((f"Set it {phrase}.", f"It happens {phrase}.")))
    if "weather" in request:
        words += f" {_WEATHERS[request['weather']].request}"
    return words


def _an_object(request: dict[str, str]) -> str:
    if "object" not in request:
        return ""
    return article(" ".join(filter(None, (request.get("colour", ""), request["object"]))))


def _draw_name(rng: random.Random, kind: Kind) -> str:
    """Return a name for `kind`: any for an animal, one of the right gender for a person."""
    gender = rng.choice(("she", "he")) if kind.animal else kind.gender
    return rng.choice(lexicon.NAMES["she" if gender == "she" else "he"])


def tell(rng: random.Random, request: dict[str, str]) -> str:
    """Return a story that follows `request`; what the request leaves open is drawn."""
    return _Telling.draw(rng, request).render()


@dataclass
class _Telling:
    """A story being told: what was chosen for it, and the reference to the hero so far."""

    rng: random.Random
    kind: Kind
    trait: str
    name: str
    plot: Plot
    place: Place
    weather: Weather
    mood: str
    ending: str
    excitement: float
    beats: tuple[str, ...]
    slots: dict[str, str] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: random.Random, request: dict[str, str]) -> _Telling:
        """Choose everything that `request` leaves open."""
        kind = _KINDS[request["kind"]]
        name = request.get("name", "")
        if not name and rng.random() < 0.95:
            name = _draw_name(rng, kind)
        trait = request.get("trait", "")
        if not trait and rng.random() < 0.6:
            trait = rng.choice(lexicon.TRAITS)
        plot = _PLOTS[request["plot"]] if "plot" in request else rng.choice(PLOTS)
        objects = dict(request)
        if plot.has_object and "object" not in objects:
            objects["object"] = rng.choice(lexicon.OBJECTS)
            if rng.random() < 0.5:
                objects["colour"] = rng.choice(lexicon.COLOURS)
        place = _PLACES[request["place"]] if "place" in request else rng.choice(lexicon.PLACES)
        weather = (
            _WEATHERS[request["weather"]] if "weather" in request else rng.choice(lexicon.WEATHERS)
        )
        mood = request.get("mood") or rng.choice(lexicon.MOODS)
        ending = request.get("ending") or rng.choices(("closed", "open", "lesson"), (80, 10, 10))[0]
        helper = rng.choice([words for words in lexicon.HELPERS if kind.noun not in words])
        gender = _GENDER_OF_NAME[name] if name else kind.gender
        described = " ".join(filter(None, (trait, kind.noun)))
        slots = {
            **_PRONOUNS[gender],
            "name": name,
            "a_hero": article(described),
            "the_hero": f"the {described}",
            "place": place.phrase,
            "object": objects.get("object", ""),
            "an_object": _an_object(objects),
            "helper": f"the {helper.split()[-1]}",
            "a_helper": article(helper),
        }
        telling = cls(
            rng=rng,
            kind=kind,
            trait=trait,
            name=name,
            plot=plot,
            place=place,
            weather=weather,
            mood=mood,
            ending=ending,
            excitement=rng.choices(*_EXCITEMENT)[0],
            beats=(),
            slots=slots,
        )
        telling.beats = telling._choose_beats(request)
        return telling

    def _choose_beats(self, request: dict[str, str]) -> tuple[str, ...]:
        """Return the beats to tell: the required ones, then others up to the wanted number."""
        required = {*_ALWAYS}
        if "weather" in request:
            required.add("weather")
        if self.slots["object"] and not self.plot.has_object:
            required.add("keepsake")
        if self.ending in ("moral", "lesson"):
            required.add("moral")
        if self.ending == "open":
            required.add("closing")
        if "length" in request:
            wanted = self.rng.randint(*BEATS[request["length"]])
        else:
            wanted = self.rng.choice(_FREE_BEATS)
        optional = [beat for beat in _ORDER if beat not in required | {"keepsake", "moral"}]
        if not self.trait:
            optional.remove("trait")
        if self.plot.key == "storm" and "weather" in optional:
            optional.remove("weather")
        self.rng.shuffle(optional)
        # A closing rounds a story off, so it comes before the other extras more often than not.
        if "closing" in optional and self.rng.random() < 0.6:
            optional.remove("closing")
            optional.insert(0, "closing")
        chosen = required | set(optional[: max(0, wanted - len(required))])
        return tuple(beat for beat in _ORDER if beat in chosen)

    def render(self) -> str:
        """Return the story's text: sentences with one space between them."""
        sentences: list[str] = []
        previous = ""
        for beat in self.beats:
            sentences.append(self._render_beat(beat, previous))
            previous = beat
        return " ".join(sentences)

    def _render_beat(self, beat: str, previous: str) -> str:
        template = self.rng.choice(self._templates(beat))
        slots = dict(self.slots)
        slots["hero"] = self._refer(previous)
        if beat == "moral":
            slots["moral"] = self.rng.choice(self.plot.morals)
        text = _capitalise(template.format_map(slots))
        # What is spoken has its own marks, and an ellipsis trails off.
        plain = text.endswith(".") and not text.endswith("..") and '"' not in text
        if plain and self.rng.random() < self.excitement:
            text = text[:-1] + "!"
        return text

    def _refer(self, previous: str) -> str:
        """Return the words for the hero: a pronoun only right after a beat about the hero."""
        if previous in ("opening", "trait", "keepsake", "setup", "line", "attempt") and (
            self.rng.random() < 0.4
        ):
            return self.slots["he"]
        if self.name and self.rng.random() < 0.9:
            return self.name
        return f"the {self.kind.noun}"

    def _templates(self, beat: str) -> tuple[str, ...]:
        plot = self.plot
        told = {
            "opening": phrases.NAMED_OPENINGS if self.name else phrases.UNNAMED_OPENINGS,
            "trait": phrases.TRAIT_SENTENCES.get(self.trait, ()),
            "weather": self.weather.sentences,
            "keepsake": phrases.KEEPSAKES,
            "setup": plot.setups,
            "line": plot.lines,
            "attempt": plot.attempts,
            "helper": plot.helpers,
            "feeling": phrases.FEELINGS[self.mood],
            "turn": plot.turns[self.mood],
            "closing": (
                phrases.OPEN_CLOSINGS if self.ending == "open" else phrases.CLOSINGS[self.mood]
            ),
            "moral": phrases.MORAL_FRAMES if self.ending == "moral" else phrases.LESSON_FRAMES,
        }
        return told[beat]


def _capitalise(sentence: str) -> str:
    """Return `sentence` with its first letter, which may stand after a quote, made a capital."""
    return re.sub(r"[A-Za-z]", lambda letter: letter.group().upper(), sentence, count=1)
