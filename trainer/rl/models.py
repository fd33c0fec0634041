"""The models of an on-policy run: the policy, its reference, and the reward models that score it."""

from dataclasses import dataclass

from trainer.engine.capabilities import probe_sampling
from trainer.engine.distributed import Processes
from trainer.engine.models import count_parameters, load_policy
from trainer.engine.prepare import prepare_model
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
    parameters: int  # of the policy as it was loaded
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


def load_models(config: OnPolicyConfig, processes: Processes) -> OnPolicyModels:
    """Load them and make them ready, one after another: no two stand whole on the device that are to be
    divided. Raises TrainerError where the reference does not read the policy's tokens."""
    device = processes.loading_device(config.shard)
    tokenizer = load_tokenizer(config.model)
    if config.reference and not same_tokens(tokenizer, load_tokenizer(config.reference)):
        raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
    policy = load_policy(config.model, tokenizer, device)
    parameters = count_parameters(policy)
    prepare_model(policy, config, processes, onednn=True)
    probe_sampling(policy, config.model)
    reference = None
    if not config.lora_rank:
        reference = load_policy(config.reference or config.model, tokenizer, device)
        reference.requires_grad_(False)
        prepare_model(reference, config, processes, trainable=False, onednn=True)
    rewards = RewardEnsemble(
        config.reward,
        config,
        tokenizer,
        processes,
        method=config.ensemble,
        coefficient=config.uncertainty_coef,
    )
    heldout = config.heldout_reward
    return OnPolicyModels(
        tokenizer=tokenizer,
        policy=policy,
        parameters=parameters,
        reference=reference,
        rewards=rewards,
        heldout_rewards=(
            RewardEnsemble(heldout, config, tokenizer, processes) if heldout else None
        ),
    )
