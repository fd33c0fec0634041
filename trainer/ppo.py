"""PPO: a policy that climbs the reward model, held near a frozen reference by a KL penalty.

Ouyang et al. 2022, eq. 2 (without the pretraining term), with the details of Ziegler et al. 2019 and of
Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO". One update:

 1. sample a response to each prompt of a batch, at the temperature that every later formula uses too;
 2. score it with the reward model; a response that never ended gets a penalty;
 3. log-probabilities under the policy and the reference, and values, by the training forward pass;
 4. rewards: -beta * (log p - log q) at every token, the score at the last; whitened, mean kept;
 5. advantages by GAE, whitened; returns from unwhitened advantages;
 6. a few epochs of clipped policy and value losses over minibatches in a fresh order each.

The value model is a copy of the reward model, its head read at every token. Where its tokens differ from
the policy's, the value model is the policy's own trunk with a head of zeros.

Departures from the papers: gradients are clipped by norm, each model's alone; advantages are whitened over
the whole batch of episodes, not over each minibatch; a response's missing end costs a subtracted penalty
(Ziegler et al. replace the score).

    python -m trainer ppo --data EXPORT --model MODEL --reward RUN/model --out RUN
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data import Messages
from trainer.losses import (
    gae,
    masked_mean,
    masked_var,
    place_rewards,
    policy_loss,
    token_entropy,
    token_logprobs,
    value_loss,
    whiten,
)
from trainer.models import load_reward_model, response_logits, token_rewards
from trainer.online import Online, run_online
from trainer.rollout import Rollout
from trainer.stages import PPOConfig

CURVES = (
    ("reward model's score", ["score", "rlhf_reward"]),
    ("KL of a response from the reference, nats", ["kl", "kl_k3"]),
    ("entropy, nats a token", ["entropy"]),
    ("policy's loss", ["policy_loss"]),
    ("value's loss", ["value_loss"]),
    ("clipped share of tokens", ["clip_share", "value_clip_share"]),
    ("change in an update: mean (d log p)^2 / 2", ["approx_kl"]),
    ("explained variance of returns", ["explained_variance"]),
    ("response length, tokens", ["response_length"]),
    ("share that ended", ["ended_share"]),
    ("KL coefficient", ["kl_coef"]),
    ("tokens a second", ["tokens_per_second"]),
)


@dataclass(frozen=True)
class Experience:
    """What one batch of episodes teaches. All (B, T) but `rollout` and the scores (B,)."""

    rollout: Rollout
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor
    raw_scores: Tensor


def main(config: PPOConfig) -> dict[str, Any]:
    """Optimise the policy; the result is also in result.json."""
    return run_online(
        "ppo", "PPO", config, Trainer, curves=CURVES, prompts_a_step=config.batch_size
    )


class Trainer(Online[PPOConfig]):
    """PPO's four models and one update of it."""

    def load_more(self, device: torch.device) -> list[Any]:
        """The value model: the reward model's copy, or the policy's trunk with a head of zeros."""
        start = self.config.reward if self.same_tokens else self.config.model
        self.value_model = load_reward_model(start, self.tokenizer, device, seed=self.config.seed)
        if not self.same_tokens:
            nn.init.zeros_(self.value_model.score.weight)
        return [self.value_model]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The policy's and the value model's."""
        values = list(self.value_model.parameters())
        own = {"params": values, "base_lr": self.config.value_lr or self.lr}
        return [*super().parameter_groups(), own]

    def models_to_save(self) -> dict[str, Any]:
        """The policy and the value model."""
        return {**super().models_to_save(), "value_model": self.value_model}

    def improve(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """One update of the module's list."""
        experience = self.collect(prompts)
        figures = self.learn(experience)
        mask = experience.rollout.response_mask.float()
        spread = masked_var(experience.returns, mask)
        missed = experience.returns - experience.values
        figures |= self.describe(
            experience.rollout, experience.raw_scores, experience.logprobs, experience.reference
        )
        figures["value_error"] = float(masked_mean(missed**2, mask))
        figures["explained_variance"] = float(1 - masked_var(missed, mask) / spread.clamp(min=1e-8))
        return experience.rollout, figures

    def collect(self, prompts: Sequence[Messages]) -> Experience:
        """Steps 1 to 5 of the module's list."""
        config = self.config
        rollout = self.roll_out(prompts, self.stream)
        mask = rollout.response_mask.float()
        raw = self.score(prompts, rollout)
        scores = self.penalised(raw, rollout)
        with torch.no_grad():
            logprobs = self.per_micro_batch(rollout, self.logprobs_of, self.policy)
            reference = self.per_micro_batch(rollout, self.logprobs_of, self.reference)
            values = self.per_micro_batch(rollout, self.values_of, self.value_model)
        rewards = place_rewards(scores, logprobs, reference, mask, self.kl_coef)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
        return Experience(
            rollout=rollout,
            logprobs=logprobs * mask,
            reference=reference * mask,
            values=values * mask,
            advantages=whiten(advantages, mask),
            returns=returns,
            scores=scores,
            raw_scores=raw,
        )

    def values_of(self, model: Any, rollout: Rollout, rows: Tensor) -> Tensor:
        """(b, T) values of the states before each sampled token of some rows."""
        values = token_rewards(model, rollout.ids[rows], rollout.mask[rows])
        return values[:, -rollout.length - 1 : -1]

    def learn(self, experience: Experience) -> dict[str, float]:
        """Step 6 of the module's list. Figures are means over all minibatches."""
        config = self.config
        count = len(experience.raw_scores)
        size = count // config.minibatches
        sums: dict[str, float] = {}
        made = 0
        for _ in range(config.ppo_epochs):
            order = torch.randperm(count, generator=self.stream)
            for rows in torch.split(order, size):
                figures = self.step(experience, rows)
                made += 1
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + value
        return {name: value / made for name, value in sums.items()}

    def step(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """One optimiser step on a minibatch; the micro-batches' sums are divided by all its tokens."""
        config = self.config
        tokens = experience.rollout.response_mask[rows].sum().float()
        sums: dict[str, float] = {}
        self.optimizer.zero_grad()
        for part in torch.split(rows, config.micro_batch):
            mask = experience.rollout.response_mask[part].float()
            old = experience.logprobs[part]
            rollout = experience.rollout
            logits = response_logits(
                self.policy, rollout.ids[part], rollout.mask[part], rollout.length
            )
            logprobs = token_logprobs(logits, rollout.response[part], config.temperature) * mask
            values = self.values_of(self.value_model, rollout, part) * mask
            lost, clipped = policy_loss(
                logprobs, old, experience.advantages[part], mask, config.clip
            )
            missed, value_clipped = value_loss(
                values, experience.values[part], experience.returns[part], mask, config.value_clip
            )
            # The two models share nothing, so the weight between their losses only scales the report:
            # on the value model's gradient Adam would undo it, but for its epsilon.
            ((lost + missed) / tokens).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                change = logprobs - old
                share = mask.sum() / tokens
                figures = {
                    "policy_loss": lost / tokens,
                    "value_loss": missed / tokens,
                    "clip_share": clipped * share,
                    "value_clip_share": value_clipped * share,
                    "approx_kl": 0.5 * masked_mean(change**2, mask) * share,
                    "ratio": masked_mean(change.exp(), mask) * share,
                    "ratio_var": masked_var(change.exp(), mask) * share,
                    "entropy": masked_mean(token_entropy(logits, config.temperature), mask) * share,
                }
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        sums["loss"] = sums["policy_loss"] + config.value_coef * sums["value_loss"]
        for name, model in (("grad_norm", self.policy), ("value_grad_norm", self.value_model)):
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            sums[name] = float(norm)
        self.optimizer.step()
        return sums
