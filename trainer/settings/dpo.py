"""Settings of DPO."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Curve, Stage
from trainer.settings.flags import flag, refuse_not_above, refuse_smoothing
from trainer.settings.supervised import SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class DPOConfig(SupervisedConfig):
    """A policy straight from comparisons."""

    loss: str = flag("sigmoid", "sigmoid (DPO) or ipo")
    beta: float = flag(0.1, "how strongly the policy is held to the reference")
    label_smoothing: float = flag(0.0, "the chance that a comparison is wrong")
    reference: str | None = flag(
        None, "the reference policy [default: the starting model]", local=True
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_not_above(self, 0, "beta")
        if self.loss not in ("sigmoid", "ipo"):
            raise UsageError(f"--loss must be sigmoid or ipo, not {self.loss!r}")
        refuse_smoothing(self.label_smoothing)
        if self.label_smoothing and self.loss == "ipo":
            raise UsageError("--label-smoothing goes with --loss sigmoid alone")


STAGE = Stage(
    summary="a policy straight from comparisons",
    config=DPOConfig,
    example="--data export --model model --out runs/dpo --beta 0.1",
    title="DPO",
    makes="policy",
    curves=(
        Curve("loss", ("loss", "validation_loss")),
        Curve("accuracy", ("accuracy", "validation_accuracy")),
        Curve("margin", ("margin",)),
    ),
    card="A policy trained straight from comparisons (direct preference optimisation)",
)
