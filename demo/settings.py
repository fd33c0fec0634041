"""The story-teller's settings. Nothing here needs torch: wrong usage is told at once."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings.flags import flag


@dataclass(frozen=True, kw_only=True)
class StoryTellerConfig:
    """The demo's little story-teller, from nothing."""

    out: str = flag(..., "the directory to make: model/, prompts.jsonl, info.json")
    seconds: float = flag(78.0, "wall time for all of it, from corpus to saved model")
    steps: int | None = flag(None, "updates, instead of --seconds")
    seed: int = flag(0, "seed of corpus and training")
    device: str = flag("cpu", "auto, cpu or cuda")
    corpus: int = flag(14_000, "stories to learn from")
    prompts: int = flag(200, "prompts to write, held out of the corpus")
    demonstrations: int = flag(0, "stories to write as demonstrations.jsonl too")
    vocabulary: int = flag(1536, "tokens at most; at this size nearly every word is one")
    width: int = flag(192, "of the network")
    layers: int = flag(2, "of the network")
    heads: int = flag(6, "of attention")
    batch_size: int = flag(16, "stories in an update")
    lr: float = flag(3e-3, "learning rate")
    threads: int = flag(2, "processor cores")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.seconds <= 0 or (self.steps is not None and self.steps < 1):
            raise UsageError("--seconds and --steps must be above 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError("--width must be an even multiple of --heads")
        if self.vocabulary < 300:
            raise UsageError("--vocabulary must be at least 300: 256 bytes and the special tokens")
        if self.batch_size < 1 or self.corpus < self.batch_size:
            raise UsageError("--corpus must be at least --batch-size, and that at least 1")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")
        if min(self.prompts, self.demonstrations, self.seed) < 0:
            raise UsageError("--prompts, --demonstrations and --seed must not be negative")
