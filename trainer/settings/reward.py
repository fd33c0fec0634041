"""Settings of the reward model's stage."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Curve, Stage
from trainer.settings.flags import (
    flag,
    numbers_of,
    refuse_below,
    refuse_not_above,
    refuse_smoothing,
)
from trainer.settings.supervised import SupervisedConfig

TIES = ("auto", "breslow", "davidson")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(SupervisedConfig):
    """A reward model from rankings."""

    weight_decay: float = flag(0.01, "decay of the weights, but for norms and biases")
    max_mean_examples: int = flag(1000, "rankings to measure the mean reward and its spread on")
    label_smoothing: float = flag(0.0, "the chance that a ranking is the wrong way round")
    ties: str = flag(
        "auto",
        "how ties enter the loss: breslow (one win each way), davidson (Davidson-Luce, with fitted "
        "chances of ties), or auto (by held-out likelihood, measured before training)",
    )
    tie_lr: float = flag(0.05, "learning rate of the ties' parameters (log nu), for davidson")
    margin_scale: float = flag(
        0.0, "reward by which a pair's better one must lead, for each step of its strength"
    )
    length_control: bool = flag(
        False,
        "explain what length alone predicts outside of the reward, which then learns the rest",
    )
    sizes: str = flag(
        "", "also train on these shares of the data, by comma, and plot accuracy against size"
    )
    train_share: float = flag(1.0, "train on this share of the prompts")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 1, "max_mean_examples")
        refuse_below(self, 0, "margin_scale")
        refuse_not_above(self, 0, "tie_lr")
        if self.ties not in TIES:
            raise UsageError(f"--ties must be {', '.join(TIES)}, not {self.ties!r}")
        if self.ties == "davidson" and self.margin_scale:
            # A lead taken from the better one's reward would also make their tie less likely.
            raise UsageError("--margin-scale goes with --ties breslow (or auto, which takes it)")
        refuse_smoothing(self.label_smoothing)
        for share in (self.train_share, *numbers_of(self.sizes, "--sizes")):
            if not 0 < share <= 1:
                raise UsageError(f"--sizes and --train-share must be above 0, at most 1: {share}")


STAGE = Stage(
    summary="a reward model from rankings",
    config=RewardConfig,
    example="--data export --model model --out runs/reward",
    title="Reward model",
    makes="reward",
    curves=(
        Curve("loss", ("loss",), "nats a ranking"),
        Curve("accuracy on strict pairs", ("accuracy", "validation_accuracy")),
        Curve("validation: log loss of a pair", ("validation_log_loss",), "nats"),
        Curve("gradient norm", ("grad_norm",)),
    ),
    card="A reward model: one number for a response to a prompt, higher where raters preferred it",
)
