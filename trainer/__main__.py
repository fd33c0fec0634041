"""`python -m trainer STAGE …`: a stage file for each word, imported only when it is asked for."""

import importlib
import os
import sys

STAGES = {
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "a reward model from rankings",
    "ppo": "a policy that climbs the reward model, held near its reference",
    "dpo": "a policy straight from comparisons",
    "evaluate": "figures of a reward model, or of one policy against another",
    "generate": "responses of a policy to prompts",
    "tiny": "the demo's little story-teller, from nothing",
}


def main(argv: list[str]) -> int:
    """Run a stage. Exit codes: 0 done, 1 a failure explained in one line, 2 wrong usage."""
    # Before torch is imported: its threads would spin while they wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = "\n".join(f"  {name:<10}{what}" for name, what in STAGES.items())
    usage = f"usage: python -m trainer STAGE [flags]\n\n{words}\n\nEach STAGE has --help."
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)  # noqa: T201
        return 0 if argv else 2
    if argv[0] not in STAGES:
        print(f"there is no stage {argv[0]!r}\n\n{usage}", file=sys.stderr)  # noqa: T201
        return 2
    from trainer.errors import TrainerError, UsageError

    try:
        stage = importlib.import_module(f"trainer.{argv[0]}")
        code: int = stage.command(argv[1:])
    except UsageError as error:
        print(f"trainer {argv[0]}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except TrainerError as error:
        print(f"trainer {argv[0]}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
