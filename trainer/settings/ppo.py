"""Settings of PPO."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Curve, Stage
from trainer.settings.flags import flag, refuse_below, refuse_not_above
from trainer.settings.on_policy import ENTROPY, KL, RESPONSES, SCORE, OnPolicyConfig, refuse_uneven


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """A policy trained against a reward model, held near its reference."""

    minibatches: int = flag(2, "minibatches in a pass over an update's episodes")
    ppo_epochs: int = flag(4, "passes over an update's episodes")
    gamma: float = flag(1.0, "discount")
    lam: float = flag(0.95, "lambda of GAE")
    clip: float = flag(0.2, "epsilon of the policy's clipped objective")
    value_clip: float = flag(0.2, "epsilon of the value's clipped objective")
    value_coef: float = flag(0.1, "weight of the value loss beside the policy's, in the report")
    value_lr: float | None = flag(None, "learning rate of the value model [default: the policy's]")
    whiten_rewards: bool = flag(True, "bring rewards to unit variance, mean kept")
    ptx_coef: float = flag(
        0.0, "PPO-ptx: weight of the log likelihood of --ptx-data in every step (InstructGPT: 27.8)"
    )
    ptx_data: str | None = flag(
        None, "an export or demonstrations for --ptx-coef [default: those of --data]", local=True
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 1, "minibatches", "ppo_epochs")
        refuse_below(self, 0, "value_coef", "ptx_coef")
        refuse_not_above(self, 0, "clip", "value_clip", "value_lr")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} must be from 0 to 1")
        refuse_uneven(self, "minibatches")


STAGE = Stage(
    summary="a policy trained against a reward model, held near its reference",
    config=PPOConfig,
    example="--data export --model model --reward runs/reward/model --out runs/ppo",
    title="PPO",
    makes="policy",
    needs=("reward",),
    curves=(
        SCORE,
        KL,
        ENTROPY,
        Curve("policy's loss", ("policy_loss",)),
        Curve("value's loss", ("value_loss",)),
        Curve("clipped share of tokens", ("clip_share", "value_clip_share")),
        Curve("change in an update: mean (d log p)^2 / 2", ("approx_kl",), "nats"),
        Curve("explained variance of returns", ("explained_variance",)),
        Curve("loss on demonstrations (ptx)", ("ptx_loss",), "nats a token", only_with="ptx_coef"),
        *RESPONSES,
    ),
    card="A policy trained by PPO against a reward model, held near its reference by a KL penalty",
)
