"""`python -m trainer STAGE …`: a stage file for each word, imported only when it is asked for."""

import importlib
import json
import os
import sys

STAGES = {
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "a reward model from rankings",
    "ppo": "a policy that climbs the reward model, held near its reference",
    "rloo": "the same without a value model",
    "dpo": "a policy straight from comparisons",
    "evaluate": "figures of a reward model, or of one policy against another",
    "compare": "PPO beside SFT, DPO, RLOO and best-of-n, in one table",
    "generate": "responses of a policy to prompts",
    "tiny": "the demo's little story-teller, from nothing",
}


def main(argv: list[str]) -> int:
    """Run a stage. Exit codes: 0 done, 1 a failure explained in one line, 2 wrong usage."""
    # Before torch is imported: its threads would spin for milliseconds while they wait for each other,
    # and take the cores from whoever has work. A few microseconds bridge the gap to the next operation.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What makes a GPU's matrix products repeatable; it has to be there before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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
        return run_stage(argv[0], argv[1:])
    except UsageError as error:
        return refuse(argv[0], error, code=2)
    except TrainerError as error:
        return refuse(argv[0], error, code=1)
    except OSError as error:  # a full disk, a folder that may not be written …
        return refuse(argv[0], error, code=1)
    except KeyboardInterrupt:
        return refuse(argv[0], "interrupted", code=130)


def run_stage(stage: str, argv: list[str]) -> int:
    """Read the settings, and only then import what is heavy; print the figures as the last line."""
    from trainer.config import parse
    from trainer.stages import CONFIGS

    if stage not in CONFIGS:  # a stage with a command of its own
        code: int = importlib.import_module(f"trainer.{stage}").command(argv)
        return code
    kind, example = CONFIGS[stage]
    config: object = parse(kind, argv, stage=stage, example=f"python -m trainer {stage} {example}")
    result = importlib.import_module(f"trainer.{stage}").main(config)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(json.dumps(result))  # noqa: T201 - the interface
    return 0


def refuse(stage: str, reason: object, *, code: int) -> int:
    """Say in one line why there is no result."""
    words = " ".join(str(reason).split())
    print(f"trainer {stage}: {words}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
