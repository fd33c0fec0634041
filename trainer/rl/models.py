"""The models of an on-policy run: the policy, its reference, and the reward models that score it."""

from dataclasses import dataclass

import torch

from trainer.engine.models import load_policy
from trainer.engine.protocols import Model, Policy, Tokenizer
from trainer.engine.tokens import load_tokenizer, same_tokens
from trainer.errors import TrainerError
from trainer.rl.rewards import RewardEnsemble
from trainer.settings.on_policy import OnPolicyConfig


@dataclass(frozen=True)
class OnPolicyModels:
    """What every on-policy stage loads."""

    tokenizer: Tokenizer
    policy: Policy
    # With adapters, the policy with its adapters off is the reference: there is no second copy.
    reference: Policy | None
    rewards: RewardEnsemble
    heldout_rewards: RewardEnsemble | None  # only watched

    def readers(self) -> list[Model]:
        """The models that read a rollout's own tokens: their windows bound its length."""
        readers: list[Model] = [self.policy, *self.rewards.readers()]
        if self.heldout_rewards is not None:
            readers += self.heldout_rewards.readers()
        return readers if self.reference is None else [*readers, self.reference]


def load_models(config: OnPolicyConfig, device: torch.device) -> OnPolicyModels:
    """Load them. Raises TrainerError where the reference does not read the policy's tokens."""
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    if config.reference and not same_tokens(tokenizer, load_tokenizer(config.reference)):
        raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
    reference = None
    if not config.lora_rank:
        reference = load_policy(config.reference or config.model, tokenizer, device)
        reference.requires_grad_(False)
    rewards = RewardEnsemble(
        config.reward,
        config.max_length,
        tokenizer,
        device,
        method=config.ensemble,
        coefficient=config.uncertainty_coef,
    )
    heldout = config.heldout_reward
    return OnPolicyModels(
        tokenizer=tokenizer,
        policy=policy,
        reference=reference,
        rewards=rewards,
        heldout_rewards=(
            RewardEnsemble(heldout, config.max_length, tokenizer, device) if heldout else None
        ),
    )
