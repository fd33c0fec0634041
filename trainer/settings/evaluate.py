"""Settings of an evaluation."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Stage
from trainer.settings.flags import (
    flag,
    refuse_above,
    refuse_below,
    refuse_device,
    refuse_full_window,
    refuse_infinite,
    refuse_models,
    refuse_no_file,
    refuse_seed,
)
from trainer.settings.training import MOST


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Figures of a reward model, or of one policy against another."""

    data: str = flag(..., "comparisons or rankings; with --policy, prompts")
    reward: str = flag(..., "the reward model")
    policy: str | None = flag(None, "a policy to compare")
    best_of: int = flag(1, "draw so many responses of --policy, and take the one of most reward")
    choose_by: str | None = flag(
        None, "the reward model that chooses for --best-of [default: --reward, which also judges]"
    )
    against: str | None = flag(None, "the policy to compare it with")
    out: str | None = flag(None, "a file to write the figures to, besides printing them")
    max_length: int = flag(512, "tokens of prompt and response together")
    response_length: int = flag(128, "the longest response, in tokens")
    temperature: float = flag(1.0, "of sampling; 0 takes the likeliest tokens")
    batch_size: int = flag(64, "prompts, or rankings, at a time")
    seed: int = flag(0, "seed of sampling; both policies are sampled with the same")
    device: str = flag("auto", "auto, cpu or cuda")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        refuse_infinite(self)
        refuse_below(self, 1, "batch_size", "response_length", "best_of")
        refuse_below(self, 8, "max_length")
        refuse_below(self, 0, "temperature")
        refuse_above(self, MOST, "batch_size", "max_length", "best_of")
        refuse_seed(self.seed)
        refuse_models(self.reward, "--reward")
        if self.out is not None:
            refuse_no_file(self.out, "--out")
        refuse_device(self.device)
        if self.best_of > 1 and (self.policy is None or self.temperature == 0):
            raise UsageError("--best-of goes with --policy and a --temperature above 0")
        if (self.policy is None) != (self.against is None):
            raise UsageError("--policy and --against go together")
        if self.policy is not None:
            refuse_full_window(self.response_length, self.max_length)


STAGE = Stage(
    summary="figures of a reward model, or of one policy against another",
    config=EvaluateConfig,
    example="--reward runs/reward/model --data export/comparisons.test.jsonl",
)
