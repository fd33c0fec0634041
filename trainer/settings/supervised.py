"""What the stages that learn from a fixed set of examples take."""

from dataclasses import dataclass

from trainer.settings.flags import flag, refuse_below, refuse_not_above
from trainer.settings.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TrainingConfig):
    """What the stages that learn from a fixed set of examples take."""

    weight_decay: float = flag(0.0, "decay of the weights, but for norms and biases")
    max_grad_norm: float = flag(1.0, "longer gradients are shortened to this")
    validate_every: int | None = flag(
        None, "updates between looks at the validation split [default: a tenth of the run]"
    )
    patience: int | None = flag(
        None, "end when so many looks brought no smaller validation loss, and keep the best weights"
    )
    micro_batch: int | None = flag(
        None,
        "examples in a forward pass: smaller needs less memory, changes nothing [default: all]",
    )
    compile: bool = flag(False, "compile the model first: a minute at the start, no gain on a CPU")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 0, "weight_decay")
        refuse_below(self, 1, "validate_every", "patience", "micro_batch")
        refuse_not_above(self, 0, "max_grad_norm")
