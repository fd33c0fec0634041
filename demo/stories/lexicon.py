"""The words that little stories are made of: heroes, places, things, weather and moods.

Everything is plain data. The sentences that use it are in `plots` and `phrases`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gender = Literal["she", "he"]


@dataclass(frozen=True)
class Kind:
    """A sort of hero or helper.

    `gender` is the pronoun that one of this kind has when nobody names it, so that a reader
    (and a small model) can keep it through a story; a named animal takes its name's gender.
    """

    noun: str
    gender: Gender
    animal: bool


@dataclass(frozen=True)
class Place:
    """Where a story happens: the phrase, and the noun by which a text can be checked for it."""

    phrase: str
    noun: str


@dataclass(frozen=True)
class Weather:
    """A kind of weather: how a prompt asks for it, a word that shows it, and sentences with it."""

    request: str
    word: str
    sentences: tuple[str, ...]


KINDS: tuple[Kind, ...] = (
    Kind("fox", "he", True),
    Kind("rabbit", "she", True),
    Kind("bear", "he", True),
    Kind("cat", "she", True),
    Kind("dog", "he", True),
    Kind("duck", "she", True),
    Kind("goat", "he", True),
    Kind("hedgehog", "he", True),
    Kind("mouse", "she", True),
    Kind("frog", "he", True),
    Kind("penguin", "he", True),
    Kind("squirrel", "she", True),
    Kind("turtle", "she", True),
    Kind("pig", "he", True),
    Kind("dragon", "she", True),
    Kind("girl", "she", False),
    Kind("boy", "he", False),
    Kind("old man", "he", False),
    Kind("old woman", "she", False),
    Kind("king", "he", False),
    Kind("queen", "she", False),
    Kind("witch", "she", False),
    Kind("sailor", "he", False),
    Kind("robot", "he", False),
)

NAMES: dict[Gender, tuple[str, ...]] = {
    "she": ("Mia", "Tilly", "Nora", "Ruby", "Ada", "Greta"),
    "he": ("Tom", "Oscar", "Finn", "Max", "Leo", "Otto"),
}

TRAITS: tuple[str, ...] = (
    "shy",
    "brave",
    "curious",
    "lazy",
    "kind",
    "grumpy",
    "clever",
    "lonely",
    "proud",
    "hungry",
    "sleepy",
    "tiny",
)

# The helper's adjective goes with the kind, so that "an old owl" is learned as one thing.
HELPERS: tuple[str, ...] = (
    "old owl",
    "little mouse",
    "wise turtle",
    "black crow",
    "friendly baker",
    "tall sailor",
    "small girl",
    "green frog",
    "young shepherd",
    "busy bee",
    "white horse",
    "kind neighbour",
)

PLACES: tuple[Place, ...] = (
    Place("in the forest", "forest"),
    Place("by the river", "river"),
    Place("on a farm", "farm"),
    Place("on the beach", "beach"),
    Place("in a small village", "village"),
    Place("on a snowy mountain", "mountain"),
    Place("in an old castle", "castle"),
    Place("near the lighthouse", "lighthouse"),
    Place("at the market", "market"),
    Place("in a quiet garden", "garden"),
    Place("on a lonely island", "island"),
    Place("in the big city", "city"),
    Place("in the desert", "desert"),
    Place("by the lake", "lake"),
    Place("at the harbour", "harbour"),
    Place("under the bridge", "bridge"),
)

OBJECTS: tuple[str, ...] = (
    "kite",
    "key",
    "lantern",
    "drum",
    "bell",
    "umbrella",
    "letter",
    "hat",
    "feather",
    "ring",
    "book",
    "clock",
)

COLOURS: tuple[str, ...] = ("red", "golden", "silver", "blue", "green", "tiny", "old", "shiny")

WEATHERS: tuple[Weather, ...] = (
    Weather(
        "in the rain",
        "rain",
        (
            "The rain fell softly on the roofs.",
            "It rained so hard that the paths turned into rivers.",
            "Cold rain ran down {his} nose.",
        ),
    ),
    Weather(
        "in the snow",
        "snow",
        (
            "The snow lay as thick as a blanket.",
            "Snow was falling, and the world was white and quiet.",
            "{his} steps made little holes in the deep snow.",
        ),
    ),
    Weather(
        "on a windy day",
        "wind",
        (
            "The wind howled like a hungry wolf.",
            "It was so windy that even the clouds had to hurry.",
            "A strong wind shook the trees.",
        ),
    ),
    Weather(
        "in the fog",
        "fog",
        (
            "The fog was as thick as soup.",
            "Grey fog came creeping over the ground.",
            "In the fog every bush looked like a giant.",
        ),
    ),
    Weather(
        "on a sunny morning",
        "sun",
        (
            "The sun was shining, and the birds sang.",
            "It was a bright morning, and the sun warmed {his} back.",
            "The sun rose like a big yellow balloon.",
        ),
    ),
    Weather(
        "on a dark night",
        "night",
        (
            "The night was dark, and only one star was out.",
            "The night was so quiet that {he} could hear {his} own heart.",
            "The moon hung over the night like a silver plate.",
        ),
    ),
)

MOODS: tuple[str, ...] = ("happy", "sad", "funny", "scary", "bedtime")
LENGTHS: tuple[str, ...] = ("short", "long")


def article(phrase: str) -> str:
    """Return `phrase` with "a" or "an" before it, by its first letter ("an old owl")."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"
