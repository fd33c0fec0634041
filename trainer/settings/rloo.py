"""Settings of RLOO."""

from dataclasses import dataclass

from trainer.settings import Curve, Stage
from trainer.settings.flags import flag, refuse_below
from trainer.settings.on_policy import ENTROPY, KL, RESPONSES, SCORE, OnPolicyConfig, refuse_uneven


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(OnPolicyConfig):
    """The same without a value model: a prompt's responses are each other's baseline."""

    responses: int = flag(4, "responses to each prompt of an update")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 2, "responses")
        refuse_uneven(self, "responses")


STAGE = Stage(
    summary="the same without a value model",
    config=RLOOConfig,
    example="--data export --model model --reward runs/reward/model --out runs/rloo",
    title="RLOO",
    makes="policy",
    needs=("reward",),
    curves=(
        SCORE,
        KL,
        ENTROPY,
        Curve("standard deviation of a prompt's rewards", ("group_std",)),
        Curve("gradient norm", ("grad_norm",)),
        *RESPONSES,
    ),
    card="A policy trained by RLOO against a reward model, held near its reference by a KL penalty",
)
