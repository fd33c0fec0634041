"""Settings of supervised fine-tuning."""

from dataclasses import dataclass

from trainer.settings import Curve, Stage
from trainer.settings.flags import flag
from trainer.settings.supervised import SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class SFTConfig(SupervisedConfig):
    """Supervised fine-tuning on demonstrations."""

    packing: bool = flag(
        False, "put several examples into each row of --max-length, blind to each other"
    )


STAGE = Stage(
    summary="supervised fine-tuning on demonstrations",
    config=SFTConfig,
    example="--data export --model model --out runs/sft --epochs 2",
    title="Supervised fine-tuning",
    makes="policy",
    curves=(
        Curve("loss", ("loss", "validation_loss"), "nats a token"),
        Curve("gradient norm", ("grad_norm",)),
    ),
    card="A policy that imitates demonstrations (supervised fine-tuning)",
)
