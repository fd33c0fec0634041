"""`python -m demo --out DIR`: the story-teller, from nothing."""

import json
import sys

from demo.settings import StoryTellerConfig
from trainer.errors import explain_failures
from trainer.settings.environment import set_thread_variables
from trainer.settings.flags import parse


def main(argv: list[str]) -> int:
    """Make the story-teller. Exit codes: 0 done, 1 a failure explained in one line, 2 wrong usage."""
    set_thread_variables()
    return explain_failures("demo", lambda: make(argv))


def make(argv: list[str]) -> None:
    """Read the settings and train; print what it came to as the last line."""
    example = "--out .plackett/models/story-teller --seconds 78"
    config = parse(StoryTellerConfig, argv, program="python -m demo", example=example)
    from demo.story_teller import make_story_teller  # it imports torch

    print(json.dumps(make_story_teller(config)))  # noqa: T201 - the interface


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
