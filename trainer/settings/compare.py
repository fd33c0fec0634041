"""Settings of a comparison of methods."""

import math
from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Stage
from trainer.settings.flags import (
    flag,
    numbers_of,
    refuse_above,
    refuse_below,
    refuse_device,
    refuse_full_window,
    refuse_no_folder,
    refuse_seed,
)
from trainer.settings.training import MOST

METHODS = ("sft", "dpo", "ppo", "rloo", "best-of-n")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """PPO beside SFT, DPO, RLOO and best-of-n, from the same start on the same data."""

    data: str = flag(..., "an export directory, or a file of rankings or comparisons")
    model: str = flag(..., "the model that all methods start from, and are measured against")
    out: str = flag(..., "the directory for the runs, the table and the plot")
    prompts: str | None = flag(None, "prompts to measure on [default: the test split of --data]")
    reward: str | None = flag(
        None, "the reward model to train against [default: one is fitted first]"
    )
    judge: str | None = flag(None, "another reward model that judges [default: the same]")
    methods: str = flag(",".join(METHODS), "what to compare, by comma")
    kl_scales: str = flag(
        "1", "run with the price of KL multiplied by each of these, by comma", alias="strengths"
    )
    best_of: int = flag(16, "n of best-of-n")
    settings: str | None = flag(None, "a TOML file with a table of settings for each stage")
    max_length: int = flag(512, "tokens of prompt and response together")
    response_length: int = flag(128, "the longest response, in tokens")
    seed: int = flag(0, "seed of everything random")
    device: str = flag("auto", "auto, cpu or cuda")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        refuse_below(self, 2, "best_of")
        refuse_below(self, 8, "max_length")
        refuse_below(self, 1, "response_length")
        refuse_above(self, MOST, "best_of", "max_length")
        refuse_seed(self.seed)
        refuse_no_folder(self.out)
        refuse_device(self.device)
        refuse_full_window(self.response_length, self.max_length)
        for method in self.methods.split(","):
            if method not in METHODS:
                raise UsageError(f"--methods: there is no {method!r}, only {', '.join(METHODS)}")
        scales = numbers_of(self.kl_scales, "--kl-scales")
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise UsageError("--kl-scales must be above 0")
        if len(set(self.methods.split(","))) < len(self.methods.split(",")):
            raise UsageError("--methods: one stands there twice")


STAGE = Stage(
    summary="PPO beside SFT, DPO, RLOO and best-of-n, in one table",
    config=CompareConfig,
    example="--data export --model model --out runs/compared --strengths 0.25,1,4",
)
