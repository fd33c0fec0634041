"""Twelve plots, each a handful of beats that fit together whatever is chosen from each.

A plot's beats are told in the order of its fields; `turns` has one list for each mood. `{object}`
is the bare noun ("kite"), `{an_object}` its introduction ("a red kite"), `{helper}` "the owl",
`{a_helper}` "an old owl"; the other slots are in `phrases`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """One thing that can happen to a hero.

    `requests` are relative clauses for the prompt ("who finds a kite"); `cues` are words of which
    at least one is in every story of this plot; `has_object` says that the plot is about a thing.
    """

    key: str
    requests: tuple[str, ...]
    cues: tuple[str, ...]
    has_object: bool
    setups: tuple[str, ...]
    lines: tuple[str, ...]
    attempts: tuple[str, ...]
    helpers: tuple[str, ...]
    turns: dict[str, tuple[str, ...]]
    morals: tuple[str, ...]


PLOTS: tuple[Plot, ...] = (
    Plot(
        key="find",
        requests=("who finds {an_object}",),
        cues=("found", "saw", "fell out"),
        has_object=True,
        setups=(
            "One morning {hero} found {an_object} under a stone.",
            "On the way home {hero} saw {an_object} lying in the grass.",
            "One day {an_object} fell out of a tree and landed at {his} feet.",
        ),
        lines=(
            '"Who could have lost this {object}?" {hero} asked.',
            '"What a beautiful {object}!" {hero} cried.',
        ),
        attempts=(
            "{hero} knocked on every door to ask whose {object} it was.",
            "{hero} hid the {object} in a hollow tree and told nobody.",
            "{hero} carried the {object} everywhere and polished it each night.",
        ),
        helpers=(
            '{a_helper} came by and said, "That {object} belonged to my mother."',
            '{a_helper} looked at the {object} and whispered, "Be careful, it is magic."',
        ),
        turns={
            "happy": (
                "In the end {hero} gave the {object} back, and the owner cried with joy.",
                "Nobody came for the {object}, so it became {his} very own treasure.",
            ),
            "funny": (
                "Then the {object} sneezed, for a sleepy beetle lived inside.",
                "It turned out that {hero} had lost the {object} {himself} a year ago.",
            ),
            "sad": (
                "That evening a child came for the {object}, and {hero} had to let it go.",
                "When {he} picked it up again, the {object} broke into small pieces.",
            ),
            "scary": (
                "At midnight the {object} began to glow, and a cold voice called {his} name.",
                "Then a shadow with long fingers came and wanted the {object} back.",
            ),
            "bedtime": (
                "{hero} put the {object} beside {his} pillow, and it shone softly.",
                "{hero} showed the {object} to the moon, and the moon smiled.",
            ),
        },
        morals=(
            "a treasure is sweeter when you share it",
            "what you find may be missed by somebody else",
        ),
    ),
    Plot(
        key="lose",
        requests=("who loses {an_object}", "who cannot find {an_object}"),
        cues=("lost", "gone", "missing"),
        has_object=True,
        setups=(
            "{hero} had {an_object}, and one day it was gone.",
            "One afternoon {hero} lost {an_object} that {he} loved.",
            "{hero} woke up and saw that {an_object} was missing.",
        ),
        lines=(
            '"Where is my {object}?" {hero} cried.',
            '"I had the {object} only a minute ago!" {hero} said.',
        ),
        attempts=(
            "{hero} looked under the bed, behind the stove and in the soup.",
            "{hero} searched every path until {his} feet hurt.",
            "{hero} asked the birds, but the birds had not seen the {object}.",
        ),
        helpers=(
            '{a_helper} said, "Do not worry, we will look for it together."',
            '"Think of where you had it last," said {a_helper}.',
        ),
        turns={
            "happy": (
                "At last {he} found the {object} in {his} own pocket.",
                "A friend had kept the {object} safe, and now gave it back.",
            ),
            "funny": (
                "A goat had eaten the {object} and did not look sorry at all.",
                "The {object} had been on {his} head the whole time.",
            ),
            "sad": (
                "But the river had carried the {object} away to the sea.",
                "{hero} never saw the {object} again.",
            ),
            "scary": (
                "Something in the cellar was playing with the {object}.",
                "The {object} lay on an old grave, and the ground was moving.",
            ),
            "bedtime": (
                "A kind star shone on the {object}, and there it was in the grass.",
                "The {object} was under the pillow, warm and safe.",
            ),
        },
        morals=(
            "it is good to look after the things you love",
            "a friend is worth more than anything you can lose",
        ),
    ),
    Plot(
        key="lost",
        requests=("who gets lost", "who cannot find the way home"),
        cues=("lost", "way home"),
        has_object=False,
        setups=(
            "One day {hero} followed a butterfly and got lost.",
            "{hero} took a wrong turn and could not find the way home.",
            "One evening {hero} walked too far and was lost.",
        ),
        lines=(
            '"Everything looks the same here," {hero} said.',
            '"Hello? Can anybody hear me?" {hero} called.',
        ),
        attempts=(
            "{hero} climbed a tall tree, but {he} saw only clouds.",
            "{hero} left a trail of crumbs, and the birds ate it.",
            "{hero} walked in a circle three times.",
        ),
        helpers=(
            '{a_helper} said, "Follow me, I know every path."',
            '"Listen to the water, it always goes home," said {a_helper}.',
        ),
        turns={
            "happy": (
                "At sunset {hero} saw a light in a window, and it was home.",
                "The smell of fresh bread led {him} back to {his} own door.",
            ),
            "funny": (
                "Then {hero} saw that {he} had been standing behind {his} own house.",
                "{hero} asked a stone for the way, and the stone said left.",
            ),
            "sad": (
                "When {hero} came home at last, nobody had noticed.",
                "Years went by, and {hero} forgot the way for ever.",
            ),
            "scary": (
                "Behind {him} the footsteps stopped whenever {he} stopped.",
                "Every path led back to the same black gate.",
            ),
            "bedtime": (
                "The fireflies made a path of light all the way to {his} bed.",
                "The moon took {him} by the hand and walked {him} home.",
            ),
        },
        morals=(
            "it is wise to ask for help",
            "home is never as far away as it seems",
        ),
    ),
    Plot(
        key="noise",
        requests=("who hears a strange noise", "who hears a noise in the cellar"),
        cues=("heard", "noise"),
        has_object=False,
        setups=(
            "One night {hero} heard a strange noise.",
            "There was a noise like a creaking door, and {hero} sat up.",
            "{hero} was eating supper when {he} heard a noise under the floor.",
        ),
        lines=(
            '"Who is there?" {hero} whispered.',
            '"Go away, or I will bite you!" {hero} shouted.',
        ),
        attempts=(
            "{hero} took a candle and crept down the stairs.",
            "{hero} pulled the blanket over {his} ears.",
            "{hero} tiptoed closer and closer.",
        ),
        helpers=(
            '{a_helper} whispered, "I heard it too."',
            '"It is only the wind," said {a_helper}, and shivered.',
        ),
        turns={
            "happy": (
                "It was a kitten in a bucket, and {hero} gave it milk.",
                "It was all {his} friends, who had come with a cake.",
            ),
            "funny": (
                "It was {his} own belly asking for cheese.",
                "It was a bear who was learning to play the violin.",
            ),
            "sad": (
                "It was an old clock, and with a last sigh it stopped.",
                "It was a bird with a broken wing, and it flew away in the morning.",
            ),
            "scary": (
                "The noise came from the mirror, and the mirror was empty.",
                "The handle turned slowly, and the candle went out.",
            ),
            "bedtime": (
                "It was only the sea, singing to its fish.",
                "It was a baby bird asking for a song, so {hero} sang one.",
            ),
        },
        morals=(
            "most of the things we fear are small",
            "a little light makes a big fear smaller",
        ),
    ),
    Plot(
        key="race",
        requests=("who enters a race", "who wants to win a race"),
        cues=("race",),
        has_object=False,
        setups=(
            "One day there was a great race, and {hero} wanted to win it.",
            "{hero} had never won a race, so {he} trained every day.",
            "The whole town came to see {him} run in the big race.",
        ),
        lines=(
            '"I am as fast as lightning!" {hero} shouted.',
            '"I will do my best," {hero} said.',
        ),
        attempts=(
            "{hero} ran so fast that {his} shoes began to smoke.",
            "{hero} fell into the mud, got up and ran on.",
            "Halfway {hero} stopped to smell a flower.",
        ),
        helpers=(
            '"Run with your heart, not with your feet," said {a_helper}.',
            '{a_helper} waved a flag and called, "Faster, faster!"',
        ),
        turns={
            "happy": (
                "{hero} crossed the line first, and the crowd cheered.",
                "{hero} came last, but {he} had made four new friends.",
            ),
            "funny": (
                "{hero} won the race because everybody else ran the wrong way.",
                "A snail won by a nose and asked for a salad.",
            ),
            "sad": (
                "{hero} came last, and the people had already gone home.",
                "Just before the line {hero} fell and hurt {his} leg.",
            ),
            "scary": (
                "Then {hero} saw that the runner behind {him} had no face.",
                "The road went into a dark tunnel, and nobody came out.",
            ),
            "bedtime": (
                "After the race {hero} lay down in the soft grass.",
                "{hero} won a pillow filled with clouds.",
            ),
        },
        morals=(
            "it is better to run with friends than to win alone",
            "those who fall can get up again",
        ),
    ),
    Plot(
        key="friend",
        requests=("who wants a friend", "who is looking for a friend"),
        cues=("friend",),
        has_object=False,
        setups=(
            "More than anything {hero} wanted a friend.",
            "One day {hero} set out to find a friend.",
            "{hero} put up a sign that said: friend wanted.",
        ),
        lines=(
            '"Will you play with me?" {hero} asked.',
            '"I can bake, and I can whistle," {hero} said.',
        ),
        attempts=(
            "{hero} asked a cloud, but the cloud flew on.",
            "{hero} wrote ten letters and put them into bottles.",
            "{hero} baked a pie and waited at the gate.",
        ),
        helpers=(
            '{a_helper} stopped and said, "I have no one to play with."',
            '"Why do you look so lost?" asked {a_helper}.',
        ),
        turns={
            "happy": (
                "They shared the last apple, and so they became friends.",
                "The new friend came back the next day, and the next.",
            ),
            "funny": (
                "In the end {hero} made friends with a potato and called it Bob.",
                "The friend turned out to be {his} own reflection, and it was very polite.",
            ),
            "sad": (
                "But the new friend had to move far away.",
                "Nobody came, and the pie grew cold.",
            ),
            "scary": (
                "The new friend smiled, and the smile had too many teeth.",
                "The new friend had no shadow and never blinked.",
            ),
            "bedtime": (
                "The two friends lay side by side and counted the stars.",
                "The new friend sang until both were yawning.",
            ),
        },
        morals=(
            "to have a friend you must be one",
            "a friend may be waiting just around the corner",
        ),
    ),
    Plot(
        key="storm",
        requests=("who is caught in a storm", "who lives through a storm"),
        cues=("storm",),
        has_object=False,
        setups=(
            "One day a terrible storm came over the hills.",
            "{hero} was far from home when the storm began.",
            "Black clouds rolled in, and a storm broke over {his} head.",
        ),
        lines=(
            '"Hold on tight!" {hero} shouted.',
            '"It is only thunder," {hero} told {himself}.',
        ),
        attempts=(
            "{hero} hid in a barrel and held {his} breath.",
            "{hero} tied the roof down with an old rope.",
            "{hero} counted the seconds after every flash.",
        ),
        helpers=(
            '{a_helper} opened a door and called, "Come in, quick!"',
            '"Storms get tired too," said {a_helper}.',
        ),
        turns={
            "happy": (
                "The storm went away and left a rainbow.",
                "When it was over, {hero} helped to build every house again.",
            ),
            "funny": (
                "The storm blew {him} onto a hay cart full of surprised geese.",
                "The storm took {his} hat and brought back a better one.",
            ),
            "sad": (
                "In the morning the old oak tree was gone.",
                "The storm had washed {his} little house away.",
            ),
            "scary": (
                "In each flash something tall stood nearer.",
                "The thunder did not stop, and it was saying a name.",
            ),
            "bedtime": (
                "Slowly the storm grew tired and turned into a gentle rain.",
                "Inside it was warm, and there was cocoa for everyone.",
            ),
        },
        morals=(
            "every storm comes to an end",
            "it is easier to be brave together",
        ),
    ),
    Plot(
        key="fly",
        requests=("who wants to fly", "who dreams of flying"),
        cues=("fly",),
        has_object=False,
        setups=(
            "Every night {hero} dreamed that {he} could fly.",
            "{hero} watched the swallows and wanted to fly too.",
            "One day {hero} decided to learn how to fly.",
        ),
        lines=(
            '"How hard can it be?" {hero} asked.',
            '"Up, up and away!" {hero} cried.',
        ),
        attempts=(
            "{hero} built wings out of paper and glue.",
            "{hero} jumped from the barn and landed in the hay.",
            "{hero} ate only feathers and birdseed for a week.",
        ),
        helpers=(
            '"You must be as light as a song," said {a_helper}.',
            '{a_helper} laughed and said, "Nobody like you can fly."',
        ),
        turns={
            "happy": (
                "A great wind came, and for one minute {hero} was flying.",
                "A goose took {him} on her back, and they flew over the moon.",
            ),
            "funny": (
                "{hero} flew straight into the washing and came out in a dress.",
                "{hero} did fly, but only backwards.",
            ),
            "sad": (
                "The wings broke, and {hero} never tried to fly again.",
                "The swallows flew south and left {him} on the ground.",
            ),
            "scary": (
                "{hero} flew higher and higher and could not come down.",
                "Something with black wings was flying beside {him}.",
            ),
            "bedtime": (
                "In {his} dream {hero} flew over a sea of soft clouds.",
                "The wind lifted {him} gently and carried {him} to bed.",
            ),
        },
        morals=(
            "those who never jump will never fly",
            "a dream needs work as well as wings",
        ),
    ),
    Plot(
        key="gift",
        requests=("who gives away {an_object}", "who makes a gift of {an_object}"),
        cues=("gift", "give", "present"),
        has_object=True,
        setups=(
            "{hero} wanted to give {an_object} to {his} grandmother.",
            "{hero} had no money for a gift, only {an_object}.",
            "For the birthday of a friend {hero} wrapped {an_object} as a present.",
        ),
        lines=(
            '"I hope it is good enough," {hero} said.',
            '"Surprise!" {hero} shouted.',
        ),
        attempts=(
            "{hero} tied a ribbon around the {object}.",
            "{hero} dropped the {object} into the mud and washed it twice.",
            "{hero} practised a little speech all the way.",
        ),
        helpers=(
            '"I would give anything for that {object}," said {a_helper}.',
            '{a_helper} smiled and said, "The best gift is a small one."',
        ),
        turns={
            "happy": (
                "The gift was opened, and there were hugs for everyone.",
                "In return {hero} got a kiss and a basket of plums.",
            ),
            "funny": (
                "Inside the box was not the {object} but a very angry hen.",
                "Everybody had brought the same {object}, even the dog.",
            ),
            "sad": (
                "But the door stayed shut, and {hero} had come too late.",
                "The gift was put in a corner and forgotten.",
            ),
            "scary": (
                "When the paper was torn off, the {object} began to bleed.",
                "The {object} was back on {his} bed that night, wet and cold.",
            ),
            "bedtime": (
                "The {object} was put by the fire, and grandmother told a story.",
                "A soft good night was the last thing {hero} heard that day.",
            ),
        },
        morals=(
            "a gift is as big as the heart of the giver",
            "giving makes two people happy",
        ),
    ),
    Plot(
        key="carry",
        requests=("who must carry {an_object} over the hills", "who delivers {an_object}"),
        cues=("carry", "bring", "take"),
        has_object=True,
        setups=(
            "One day {hero} had to carry {an_object} over the hills.",
            "{hero} had promised to bring {an_object} to the queen.",
            "{hero} told a dying wizard that {he} would take {an_object} to the sea.",
        ),
        lines=(
            '"A promise is a promise," {hero} said.',
            '"This {object} is heavier than it looks!" {hero} said.',
        ),
        attempts=(
            "The road was long, and the {object} grew heavier with every step.",
            "At the bridge a troll wanted the {object}, but {hero} ran.",
            "{hero} slept under a cart with the {object} in {his} arms.",
        ),
        helpers=(
            '"Let me hold the {object} for a while," said {a_helper}.',
            '{a_helper} asked, "Why not just throw it away?"',
        ),
        turns={
            "happy": (
                "The {object} arrived without a scratch, and bells rang.",
                "{hero} kept the promise and got a medal as big as a plate.",
            ),
            "funny": (
                "At the end {hero} saw that {he} had carried a cabbage all along.",
                "The queen said thank you and used the {object} as a doorstop.",
            ),
            "sad": (
                "When {hero} arrived, there was nobody left to take the {object}.",
                "On the last bridge the {object} fell into the deep water.",
            ),
            "scary": (
                "Every night the {object} whispered, and every night it was louder.",
                "The one who took the {object} had hands of bone.",
            ),
            "bedtime": (
                "The {object} came home safely, and so did {hero}.",
                "A warm bed was waiting at the end of the road.",
            ),
        },
        morals=(
            "a promise should be kept",
            "a long road begins with one small step",
        ),
    ),
    Plot(
        key="door",
        requests=("who opens a secret door", "who discovers a secret door"),
        cues=("door",),
        has_object=False,
        setups=(
            "Behind an old clock {hero} discovered a secret door.",
            "One day {hero} leaned on a wall, and a secret door opened.",
            "{hero} saw a tiny door that had not been there before.",
        ),
        lines=(
            '"I will take just one look," {hero} said.',
            '"Open, please!" {hero} said to the door.',
        ),
        attempts=(
            "{hero} pushed the door with all {his} strength.",
            "Behind the door were a hundred steps going down.",
            "{hero} knocked three times, and somebody knocked back.",
        ),
        helpers=(
            '{a_helper} said, "That door must stay shut."',
            '"I have waited a hundred years for you," said {a_helper}.',
        ),
        turns={
            "happy": (
                "Behind it was a garden where it was always summer.",
                "Behind it stood all the toys that children had ever lost.",
            ),
            "funny": (
                "Behind it sat a sheep in a bath who asked for a towel.",
                "Behind it was another door, and behind that a broom fell on {his} head.",
            ),
            "sad": (
                "Behind it was {his} old room, empty and full of dust.",
                "The door closed softly and never opened again.",
            ),
            "scary": (
                "Behind it something breathed, and it knew {his} name.",
                "The door fell shut, and on this side there was no handle.",
            ),
            "bedtime": (
                "Behind it was a small room with a soft bed and a night light.",
                "Behind it the stars were so near that {hero} could touch them.",
            ),
        },
        morals=(
            "not every door has to be opened",
            "wonder is waiting for those who look",
        ),
    ),
    Plot(
        key="song",
        requests=("who is afraid to sing", "who learns to sing"),
        cues=("sing", "sang", "song"),
        has_object=False,
        setups=(
            "{hero} loved music but was afraid to sing.",
            "{hero} knew a secret song and had never sung it to anyone.",
            "The spring feast was near, and {hero} had to sing in front of everybody.",
        ),
        lines=(
            '"What if they all laugh at me?" {hero} asked.',
            '"La, la, la," {hero} sang, very quietly.',
        ),
        attempts=(
            "{hero} practised in the barn, and the hens listened.",
            "{hero} drank honey tea for seven days.",
            "When {he} opened {his} mouth, only a squeak came out.",
        ),
        helpers=(
            '"Sing for me alone," said {a_helper}.',
            '{a_helper} said, "Close your eyes and think of the sea."',
        ),
        turns={
            "happy": (
                "Then {hero} sang, and the whole crowd sang along.",
                "{his} song was so lovely that the flowers opened.",
            ),
            "funny": (
                "{hero} sang so loudly that all the windows broke, even the ones next door.",
                "A cow joined the song, and the cow was better.",
            ),
            "sad": (
                "{hero} sang at last, but the hall was empty.",
                "The song was for a friend who could not hear it any more.",
            ),
            "scary": (
                "When the song ended, a voice from the well sang the next line.",
                "The more {he} sang, the more the dolls opened their eyes.",
            ),
            "bedtime": (
                "{hero} sang a lullaby, and one by one the lights went out.",
                "The song was as soft as milk, and the baby birds slept.",
            ),
        },
        morals=(
            "a song wants to be heard",
            "courage comes with the first note",
        ),
    ),
)
