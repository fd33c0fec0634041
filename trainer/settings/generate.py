"""Settings of generation."""

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
    refuse_no_file,
    refuse_seed,
)
from trainer.settings.training import MOST


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Responses of a policy to prompts."""

    model: str = flag(..., "the policy: a path or an id")
    data: str = flag(..., "prompts: an import file, or an export")
    out: str = flag(..., "the file to write")
    candidates: int = flag(4, "responses to each prompt")
    policy_name: str | None = flag(None, "the policy's name in the file [default: the model's]")
    limit: int | None = flag(None, "only the first so many prompts")
    max_length: int = flag(512, "tokens of prompt and response together")
    response_length: int = flag(128, "the longest response, in tokens")
    temperature: float = flag(1.0, "of sampling; 0 takes the likeliest tokens")
    batch_size: int = flag(64, "responses at a time")
    seed: int = flag(0, "seed of sampling")
    device: str = flag("auto", "auto, cpu or cuda")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        refuse_infinite(self)
        refuse_below(self, 1, "batch_size", "response_length", "limit")
        refuse_below(self, 8, "max_length")
        refuse_below(self, 0, "temperature")
        refuse_above(self, MOST, "batch_size", "max_length")
        refuse_seed(self.seed)
        refuse_no_file(self.out, "--out")
        refuse_device(self.device)
        if not 1 <= self.candidates <= 9:
            raise UsageError(f"--candidates must be 1 to 9, not {self.candidates}")
        refuse_full_window(self.response_length, self.max_length)


STAGE = Stage(
    summary="responses of a policy to prompts",
    config=GenerateConfig,
    example="--model model --data prompts.jsonl --out candidates.jsonl --candidates 4",
)
