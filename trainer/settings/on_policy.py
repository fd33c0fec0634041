"""What the stages that learn from their own samples take."""

from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.settings import Curve
from trainer.settings.flags import (
    as_flag,
    flag,
    refuse_below,
    refuse_full_window,
    refuse_models,
    refuse_not_above,
)
from trainer.settings.rates import ON_POLICY_EPSILON
from trainer.settings.training import TrainingConfig

ENSEMBLES = ("mean", "worst", "uncertain")

SCORE = Curve("reward model's score", ("score", "rlhf_reward"))
KL = Curve("KL of a response from the reference", ("kl", "kl_k3"), "nats")
ENTROPY = Curve("entropy", ("entropy",), "nats a token")
RESPONSES = (
    Curve("response length", ("response_length",), "tokens"),
    Curve("share that ended", ("ended_share",)),
    Curve("KL coefficient", ("kl_coef",)),
    Curve("tokens a second", ("tokens_per_second",)),
    Curve(
        "scores: trained against, and held out",
        ("score", "heldout_score"),
        only_with="heldout_reward",
    ),
)


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(TrainingConfig):
    """What the stages that learn from their own samples take."""

    reward: str = flag(
        ..., "the reward model to train against; several, by comma, are an ensemble", local=True
    )
    ensemble: str = flag(
        "mean", "several rewards as one: mean, worst, or uncertain (mean less their variance)"
    )
    uncertainty_coef: float = flag(0.1, "weight of the variance where --ensemble is uncertain")
    rollout_server: str | None = flag(
        None,
        "the address of a vLLM that samples in this process's place; needs --lora-rank",
        local=True,
    )
    heldout_reward: str | None = flag(
        None,
        "a held-out reward model, only watched: where it falls, the other is over-optimised",
        alias="gold",
        local=True,
    )
    reference: str | None = flag(
        None, "the policy to stay near [default: the starting model]", local=True
    )
    normalise_rewards: bool = flag(
        True,
        "bring each reward model to mean 0 and unit spread first, by what was saved with it, or else "
        "by samples of the starting policy: --kl-coef then means the same for any",
    )
    kl_coef: float = flag(0.05, "beta: the price of a nat of KL, in reward", common=True)
    kl_target: float | None = flag(None, "adapt beta towards this KL of a response, in nats")
    kl_horizon: float = flag(10_000.0, "episodes over which beta adapts")
    kl_stop: float | None = flag(None, "end the run when the mean KL passes this many nats")
    response_length: int = flag(128, "the longest response, in tokens", common=True)
    temperature: float = flag(1.0, "of sampling, and of every log-probability")
    batch_size: int = flag(64, "episodes in an update", common=True)
    micro_batch: int | None = flag(
        None,
        "episodes in a forward pass: smaller needs less memory, changes nothing "
        "[default: 16 on a CPU, 64 on a GPU]",
    )
    adam_eps: float = flag(ON_POLICY_EPSILON, "epsilon of Adam")
    epochs: float = flag(2.0, "passes over the prompts")
    max_grad_norm: float = flag(1.0, "longer gradients are shortened to this, each model's alone")
    missing_eos_penalty: float = flag(1.0, "taken from the score of a response that never ended")
    checkpoint_every: int = flag(10, "updates between checkpoints")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        refuse_below(self, 1, "response_length", "micro_batch")
        refuse_below(self, 0, "kl_coef", "missing_eos_penalty", "uncertainty_coef")
        refuse_models(self.reward, "--reward")
        if self.heldout_reward is not None:
            refuse_models(self.heldout_reward, "--heldout-reward")
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
        refuse_full_window(self.response_length, self.max_length)


def refuse_uneven(config: OnPolicyConfig, name: str) -> None:
    """Raise UsageError where an update's episodes do not divide into that many."""
    parts = getattr(config, name)
    if config.batch_size % parts:
        raise UsageError(
            f"--batch-size {config.batch_size} does not divide into {as_flag(name)} {parts}"
        )
