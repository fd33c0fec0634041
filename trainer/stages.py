"""The settings of every stage, in one place that needs no torch: wrong usage is told at once."""

from dataclasses import dataclass

from trainer.config import (
    TrainingConfig,
    as_flag,
    flag,
    refuse_below,
    refuse_device,
    refuse_infinite,
    refuse_not_above,
)
from trainer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TrainingConfig):
    """What the stages that learn from a fixed set of examples take."""

    weight_decay: float = flag(0.0, "decay of the weights")
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


@dataclass(frozen=True, kw_only=True)
class SFTConfig(SupervisedConfig):
    """Supervised fine-tuning on demonstrations."""

    packing: bool = flag(
        False, "put several examples into each row of --max-length, blind to each other"
    )


@dataclass(frozen=True, kw_only=True)
class RewardConfig(SupervisedConfig):
    """A reward model from rankings."""

    weight_decay: float = flag(0.01, "decay of the weights")
    max_mean_examples: int = flag(1000, "preferred responses to measure the mean reward on")
    label_smoothing: float = flag(0.0, "the chance that a ranking is the wrong way round")
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
        refuse_smoothing(self.label_smoothing)
        for share in (self.train_share, *numbers_of(self.sizes, "--sizes")):
            if not 0 < share <= 1:
                raise UsageError(f"--sizes and --train-share must be above 0, at most 1: {share}")


ENSEMBLES = ("mean", "worst", "uncertain")


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(TrainingConfig):
    """What the stages that learn from their own samples take."""

    reward: str = flag(..., "the reward model to climb; several, by comma, are an ensemble")
    ensemble: str = flag(
        "mean", "several rewards as one: mean, worst, or uncertain (mean less their variance)"
    )
    uncertainty_coef: float = flag(0.1, "weight of the variance where --ensemble is uncertain")
    rollout_server: str | None = flag(
        None, "the address of a vLLM that samples in this process's place; needs --lora-rank"
    )
    gold: str | None = flag(
        None, "a reward model that is only watched: where it falls, the other is over-optimised"
    )
    reference: str | None = flag(None, "the policy to stay near [default: the starting model]")
    kl_coef: float = flag(0.05, "beta: the price of a nat of KL, in reward")
    kl_target: float | None = flag(None, "adapt beta towards this KL of a response, in nats")
    kl_horizon: float = flag(10_000.0, "episodes over which beta adapts")
    kl_stop: float | None = flag(None, "end the run when the mean KL passes this many nats")
    response_length: int = flag(128, "the longest response, in tokens")
    temperature: float = flag(1.0, "of sampling, and of every log-probability")
    batch_size: int = flag(64, "episodes in an update")
    micro_batch: int | None = flag(
        None,
        "episodes in a forward pass: smaller needs less memory, changes nothing "
        "[default: 16 on a CPU, 64 on a GPU]",
    )
    epochs: float = flag(2.0, "passes over the prompts")
    max_grad_norm: float = flag(1.0, "longer gradients are shortened to this, each model's alone")
    missing_eos_penalty: float = flag(1.0, "taken from the score of a response that never ended")
    checkpoint_every: int = flag(10, "updates between checkpoints")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 1, "response_length", "micro_batch")
        refuse_below(self, 0, "kl_coef", "missing_eos_penalty", "uncertainty_coef")
        if self.ensemble not in ENSEMBLES:
            raise UsageError(f"--ensemble must be {', '.join(ENSEMBLES)}, not {self.ensemble!r}")
        if self.rollout_server and not self.lora_rank:
            raise UsageError(
                "--rollout-server needs --lora-rank: adapters are what it can be given"
            )
        if self.lora_rank and self.reference:
            raise UsageError("--reference: with --lora-rank it is the starting model, adapters off")
        refuse_not_above(self, 0, "temperature", "kl_target", "kl_horizon", "kl_stop")
        refuse_not_above(self, 0, "max_grad_norm")
        refuse_no_room(self.response_length, self.max_length)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnlineConfig):
    """A policy that climbs the reward model, held near its reference."""

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
        None, "an export or demonstrations for --ptx-coef [default: those of --data]"
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


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(OnlineConfig):
    """The same climb without a value model: a prompt's responses are each other's baseline."""

    responses: int = flag(4, "responses to each prompt of an update")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 2, "responses")
        refuse_uneven(self, "responses")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(SupervisedConfig):
    """A policy straight from comparisons."""

    loss: str = flag("sigmoid", "sigmoid (DPO) or ipo")
    beta: float = flag(0.1, "how strongly the policy is held to the reference")
    label_smoothing: float = flag(0.0, "the chance that a comparison is wrong")
    reference: str | None = flag(None, "the reference policy [default: the starting model]")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_not_above(self, 0, "beta")
        if self.loss not in ("sigmoid", "ipo"):
            raise UsageError(f"--loss must be sigmoid or ipo, not {self.loss!r}")
        refuse_smoothing(self.label_smoothing)
        if self.label_smoothing and self.loss == "ipo":
            raise UsageError("--label-smoothing goes with --loss sigmoid alone")


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
        refuse_below(self, 0, "temperature", "seed")
        refuse_device(self.device)
        if self.best_of > 1 and (self.policy is None or self.temperature == 0):
            raise UsageError("--best-of goes with --policy and a --temperature above 0")
        if (self.policy is None) != (self.against is None):
            raise UsageError("--policy and --against go together")
        if self.policy is not None:
            refuse_no_room(self.response_length, self.max_length)


METHODS = ("sft", "dpo", "ppo", "rloo", "best-of-n")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """PPO beside SFT, DPO, RLOO and best-of-n, from the same start on the same data."""

    data: str = flag(..., "an export directory, or a file of rankings or comparisons")
    model: str = flag(..., "the model that all methods start from, and are measured against")
    out: str = flag(..., "the directory for the runs, the table and the plot")
    prompts: str | None = flag(None, "prompts to measure on [default: the test split of --data]")
    reward: str | None = flag(None, "the reward model to climb [default: one is fitted first]")
    judge: str | None = flag(None, "another reward model that judges [default: the same]")
    methods: str = flag(",".join(METHODS), "what to compare, by comma")
    strengths: str = flag("1", "run with the price of KL multiplied by each of these, by comma")
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
        refuse_below(self, 0, "seed")
        refuse_device(self.device)
        refuse_no_room(self.response_length, self.max_length)
        for method in self.methods.split(","):
            if method not in METHODS:
                raise UsageError(f"--methods: there is no {method!r}, only {', '.join(METHODS)}")
        if not all(strength > 0 for strength in numbers_of(self.strengths, "--strengths")):
            raise UsageError("--strengths must be above 0")


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
        refuse_below(self, 0, "temperature", "seed")
        refuse_device(self.device)
        if not 1 <= self.candidates <= 9:
            raise UsageError(f"--candidates must be 1 to 9, not {self.candidates}")
        refuse_no_room(self.response_length, self.max_length)


def refuse_smoothing(chance: float) -> None:
    """Raise UsageError for a chance of a wrong label that leaves nothing to learn."""
    if not 0 <= chance < 0.5:
        raise UsageError("--label-smoothing must be at least 0 and below 0.5")


def numbers_of(text: str, name: str) -> list[float]:
    """`0.25,0.5` as numbers. Raises UsageError, naming the flag."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{name} must be numbers with commas between, not {text!r}") from None


def refuse_no_room(response_length: int, max_length: int) -> None:
    """Raise UsageError where a response alone would fill the window."""
    if response_length >= max_length:
        raise UsageError(
            f"--response-length {response_length} leaves no room for a prompt in "
            f"--max-length {max_length}"
        )


def refuse_uneven(config: OnlineConfig, name: str) -> None:
    """Raise UsageError where an update's episodes do not divide into that many."""
    parts = getattr(config, name)
    if config.batch_size % parts:
        raise UsageError(
            f"--batch-size {config.batch_size} does not divide into {as_flag(name)} {parts}"
        )


# Each stage's settings, and a command to show under --help.
CONFIGS: dict[str, tuple[type, str]] = {
    "sft": (SFTConfig, "--data export --model model --out runs/sft --epochs 2"),
    "reward": (RewardConfig, "--data export --model model --out runs/reward"),
    "ppo": (
        PPOConfig,
        "--data export --model model --reward runs/reward/model --out runs/ppo",
    ),
    "rloo": (
        RLOOConfig,
        "--data export --model model --reward runs/reward/model --out runs/rloo",
    ),
    "dpo": (DPOConfig, "--data export --model model --out runs/dpo --beta 0.1"),
    "evaluate": (
        EvaluateConfig,
        "--reward runs/reward/model --data export/comparisons.test.jsonl",
    ),
    "compare": (
        CompareConfig,
        "--data export --model model --out runs/compared --strengths 0.25,1,4",
    ),
    "generate": (
        GenerateConfig,
        "--model model --data prompts.jsonl --out candidates.jsonl --candidates 4",
    ),
}
