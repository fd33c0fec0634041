"""RLOO: REINFORCE in which a prompt's responses are each other's baseline. No value model.

Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization", with the estimator of Kool
et al. 2019. One update:

 1. sample k responses to each prompt of a batch, and score them with the reward model;
 2. a response's reward is its score less beta * (log p - log q) of all its tokens together;
 3. its advantage is its reward less the mean reward of the prompt's k - 1 others;
 4. one step up the gradient of advantage * log p(response), on the policy that it was drawn from.

    python -m trainer rloo --data EXPORT --model MODEL --reward RUN/model --out RUN
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.engine.responses import response_logits
from trainer.formulas.advantages import leave_one_out
from trainer.formulas.logprobs import chosen_and_entropy
from trainer.rl.loop import Online, run_online
from trainer.rl.rollout import Rollout
from trainer.settings.rloo import RLOOConfig


def main(config: RLOOConfig) -> dict[str, Any]:
    """Optimise the policy; the result is also in result.json."""
    prompts = config.batch_size // config.responses
    return run_online("rloo", config, Trainer, prompts_a_step=prompts)


class Trainer(Online[RLOOConfig]):
    """One update of RLOO."""

    def improve(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """One update of the module's list."""
        repeated = [messages for messages in prompts for _ in range(self.config.responses)]
        rollout = self.roll_out(repeated, self.stream)
        mask = rollout.response_mask.float()
        raw, _ = self.score(repeated, rollout)
        planted = self.plant(rollout, self.own_rows(len(repeated)))
        with torch.no_grad():
            logprobs = self.per_micro_batch(rollout, planted, self.logprobs_of, self.policy) * mask
        reference = self.reference_logprobs(rollout, planted) * mask
        kl = (logprobs - reference).sum(-1)
        rewards = self.penalised(raw, rollout) - self.kl_coef * kl
        grouped = rewards.view(len(prompts), self.config.responses)
        figures = self.climb(rollout, leave_one_out(grouped).flatten())
        figures |= self.describe(rollout, raw, logprobs, reference)
        figures["group_std"] = float(grouped.std(-1).mean())
        return rollout, figures

    def climb(self, rollout: Rollout, advantages: Tensor) -> dict[str, float]:
        """One optimiser step; the micro-batches' sums are divided by all episodes."""
        episodes = len(advantages)
        tokens = rollout.response_mask.sum().float()
        figures = torch.zeros(2, device=tokens.device)
        self.optimizer.zero_grad()
        for part, forest in self.plant(rollout, self.processes.share(range(episodes))):
            logits = response_logits(self.policy, forest)
            logprobs, entropies = chosen_and_entropy(
                logits, forest.targets, self.config.temperature
            )
            lost = -(advantages[part][forest.owners] * logprobs).sum() / episodes
            lost.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                entropy = entropies().sum() / tokens
                figures += torch.stack([lost, entropy])
        loss, mean_entropy = self.processes.add_up(figures).tolist()
        self.processes.add_up_gradients(self.policy.parameters())
        norm = self.processes.clip(self.policy.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return {"loss": loss, "grad_norm": norm, "entropy": mean_entropy}
