"""Sentences that any little story may use: openings, feelings, mood colours and closings.

Slots in braces are filled by `compose`: `{hero}`, `{he}`, `{him}`, `{his}`, `{himself}` are the
hero, `{place}` where it happens, `{a_hero}` the hero's introduction ("a shy fox").
"""

from __future__ import annotations

NAMED_OPENINGS: tuple[str, ...] = (
    "Once upon a time there was {a_hero} named {name} who lived {place}.",
    "{name} was {a_hero} who lived {place}.",
    "{place} lived {a_hero} called {name}.",
    "Long ago, {a_hero} named {name} lived {place}.",
    "This is the story of {name}, {a_hero} who lived {place}.",
    "Everybody {place} knew {name}, {the_hero}.",
)

UNNAMED_OPENINGS: tuple[str, ...] = (
    "Once upon a time there was {a_hero} who lived {place}.",
    "{place} lived {a_hero}.",
    "Long ago, {a_hero} lived {place}.",
    "There was once {a_hero} who had a little house {place}.",
    "Nobody {place} had ever seen such {a_hero}.",
)

# How a hero is, shown by what the hero does: one or two sentences for each trait.
TRAIT_SENTENCES: dict[str, tuple[str, ...]] = {
    "shy": (
        "{hero} hid behind a bush when somebody said hello.",
        "{hero} spoke as softly as snow.",
    ),
    "brave": ("{hero} was not afraid of anything.", "{hero} had once chased a wolf away."),
    "curious": (
        "{hero} asked a hundred questions a day.",
        "{hero} looked into every hole and box.",
    ),
    "lazy": ("{hero} slept until noon every day.", "{hero} was as slow as honey."),
    "kind": ("{hero} always shared {his} bread.", "{hero} had a smile for everyone."),
    "grumpy": ("{hero} never said good morning.", "{hero} growled at the birds for singing."),
    "clever": ("{hero} could count all the stars.", "{hero} had a plan for everything."),
    "lonely": ("{hero} ate {his} supper alone.", "{hero} talked to the moon at night."),
    "proud": ("{hero} thought nobody was better than {himself}.", "{hero} walked like a king."),
    "hungry": ("{hero} thought of cake all day.", "{his} belly rumbled like thunder."),
    "sleepy": ("{hero} yawned before every word.", "{hero} could sleep standing up."),
    "tiny": ("{hero} was as small as a thimble.", "{hero} slept in a teacup."),
}

FEELINGS: dict[str, tuple[str, ...]] = {
    "happy": (
        "{his} heart jumped like a fish.",
        "{hero} hummed a merry tune.",
        "{hero} laughed and danced in a circle.",
        "It felt like a birthday.",
    ),
    "sad": (
        "A tear rolled down {his} cheek.",
        "{his} heart felt as heavy as a stone.",
        "{hero} sat down and sighed.",
        "Everything looked grey.",
    ),
    "funny": (
        "{hero} sneezed so hard that {his} socks fell off.",
        "{hero} slipped on a pancake and said hello to a cow.",
        "A chicken watched and laughed out loud.",
        "{hero} bumped into a tree and told it to watch out.",
    ),
    "scary": (
        "Two yellow eyes shone in the dark.",
        "Something scratched at the wall.",
        "{his} knees shook like leaves.",
        "An icy hand seemed to touch {his} neck.",
    ),
    "bedtime": (
        "The stars came out one by one.",
        "A soft breeze smelled of flowers.",
        "The crickets played a quiet song.",
        "{hero} yawned a long, warm yawn.",
    ),
}

CLOSINGS: dict[str, tuple[str, ...]] = {
    "happy": (
        "{hero} lived happily ever after.",
        "That night everyone ate cake and danced.",
        "It was the best day of {his} life.",
        "{hero} smiled all the way home.",
        "And they all laughed until the stars came out.",
    ),
    "sad": (
        "{hero} never forgot that day.",
        "{hero} walked home alone, and nobody sang.",
        "Since then {his} house has been very quiet.",
        "All that was left was a small, sad song.",
        "{hero} still waits at the window every evening.",
    ),
    "funny": (
        "{hero} laughed so hard that {he} got the hiccups for a week.",
        "To this day {hero} refuses to talk about it.",
        "And that is why {hero} never wears trousers on a Monday.",
        "Even the cows laughed.",
        "{hero} took a bow and fell into the soup.",
    ),
    "scary": (
        "Nobody has slept there since.",
        "When {hero} looked back, the door was gone.",
        "And sometimes, at midnight, you can still hear it.",
        "{hero} ran home and locked the door three times.",
        "But who was laughing in the dark?",
    ),
    "bedtime": (
        "Then {hero} closed {his} eyes and fell asleep.",
        "Good night, said the moon, and all was still.",
        "{hero} curled up under a warm blanket and dreamed.",
        "Soon the whole world was asleep.",
        "{hero} slept until the sun came up.",
    ),
}

OPEN_CLOSINGS: tuple[str, ...] = (
    "What happened next, nobody knows.",
    "And then there was a knock at the door...",
    "But that is another story.",
    "Perhaps {hero} is still walking.",
)

# A thing that a prompt asks for in a story whose plot has no thing of its own.
KEEPSAKES: tuple[str, ...] = (
    "All {he} had with {him} was {an_object}.",
    "{hero} always carried {an_object}.",
    "{his} dearest treasure was {an_object}.",
)

MORAL_FRAMES: tuple[str, ...] = (
    "The moral is: {moral}.",
    "And the moral of the story is that {moral}.",
    "So {hero} learned the moral that {moral}.",
)

LESSON_FRAMES: tuple[str, ...] = (
    "From that day on {hero} knew that {moral}.",
    "So {hero} learned that {moral}.",
)
