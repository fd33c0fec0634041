"""What every training stage takes."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings.flags import (
    flag,
    refuse_above,
    refuse_below,
    refuse_device,
    refuse_infinite,
    refuse_no_folder,
    refuse_not_above,
    refuse_seed,
)
from trainer.settings.rates import EPSILON

# Of examples, tokens, ranks: more than any machine holds is a slip of the hand.
MOST = 10_000_000


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every training stage takes."""

    data: str = flag(
        ..., "an export directory, or a file of rankings, comparisons or HH pairs", local=True
    )
    model: str = flag(..., "the model to start from: a path or an id", local=True)
    out: str = flag(..., "the run directory to write", local=True)
    steps: int | None = flag(None, "updates to make [default: what --epochs comes to]", common=True)
    epochs: float = flag(1.0, "passes over the data")
    batch_size: int = flag(16, "examples in an update", common=True)
    lr: float | None = flag(
        None,
        "learning rate [default: the published one for the stage, the model's size and --lora-rank]",
        common=True,
    )
    adam_eps: float = flag(EPSILON, "epsilon of Adam")
    max_length: int = flag(
        512, "tokens of prompt and response together; longer prompts lose their start"
    )
    seed: int = flag(0, "seed of everything random", common=True)
    device: str = flag("auto", "auto, cpu or cuda", local=True)
    resume: bool = flag(False, "go on from the newest checkpoint in --out", local=True)
    checkpoint_every: int = flag(50, "updates between checkpoints")
    dtype: str = flag("float32", "float32, or bfloat16 for matrix products (weights stay float32)")
    gradient_checkpointing: bool = flag(False, "compute activations twice instead of keeping them")
    lora_rank: int = flag(0, "train low-rank adapters of this rank; 0 trains all weights")
    lora_alpha: float | None = flag(None, "scale of the adapters [default: their rank]")
    shard: bool = flag(False, "divide the weights among the processes (FSDP)")
    trackers: str = flag(
        "", "also report to these, by comma: tensorboard, wandb, mlflow …", local=True
    )

    def __post_init__(self) -> None:
        """Refuse impossible sizes, naming the flag."""
        refuse_infinite(self)
        refuse_below(self, 1, "steps", "batch_size", "checkpoint_every")
        refuse_below(self, 8, "max_length")
        refuse_below(self, 0, "lora_rank")
        refuse_above(self, MOST, "batch_size", "max_length", "lora_rank")
        refuse_seed(self.seed)
        refuse_no_folder(self.out)
        refuse_not_above(self, 0, "epochs", "lr", "lora_alpha", "adam_eps")
        refuse_device(self.device)
        if self.dtype not in ("float32", "bfloat16"):
            raise UsageError(f"--dtype must be float32 or bfloat16, not {self.dtype!r}")
