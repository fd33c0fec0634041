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

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.data.values import Result
from trainer.engine.distributed import Processes
from trainer.engine.responses import response_logits
from trainer.formulas.advantages import leave_one_out
from trainer.formulas.logprobs import chosen_and_entropy
from trainer.rl.loop import run_on_policy
from trainer.rl.models import load_models
from trainer.rl.rollout import Rollout
from trainer.rl.trainer import OnPolicyTrainer, add_figures
from trainer.settings.rloo import RLOOConfig


def main(config: RLOOConfig) -> Result:
    """Optimise the policy; the result is also in result.json."""
    prompts = config.batch_size // config.responses
    return run_on_policy("rloo", config, RLOOTrainer, prompts_per_step=prompts)


class RLOOTrainer(OnPolicyTrainer[RLOOConfig]):
    """One update of RLOO."""

    def __init__(self, config: RLOOConfig, processes: Processes) -> None:
        super().__init__(config, processes, load_models(config, processes))

    def training_step(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """One update of the module's list."""
        repeated = [messages for messages in prompts for _ in range(self.config.responses)]
        rollout = self.roll_out(repeated, self.stream)  # 1
        raw_scores, _ = self.score(repeated, rollout)

        mask = rollout.response_mask.float()
        micro_batches = self.build_micro_batches(rollout, self.own_rows(len(repeated)))  # 2
        logprobs = self.policy_logprobs(rollout, micro_batches) * mask
        reference = self.reference_logprobs(rollout, micro_batches) * mask
        kl = (logprobs - reference).sum(-1)
        rewards = self.with_eos_penalty(raw_scores, rollout) - self.kl_coef * kl

        grouped = rewards.view(len(prompts), self.config.responses)
        advantages = leave_one_out(grouped).flatten()  # 3

        figures = self.update_policy(rollout, advantages)  # 4
        figures |= self.rollout_figures(rollout, raw_scores, logprobs, reference)
        figures["group_std"] = float(grouped.std(-1).mean())
        return rollout, figures

    def update_policy(self, rollout: Rollout, advantages: Tensor) -> dict[str, float]:
        """One optimiser step; the micro-batches' sums are divided by all episodes."""
        episodes = len(advantages)
        tokens = rollout.response_mask.sum().float()
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for rows, batch, weight in self.share_micro_batches(rollout, range(episodes)):
            logits = response_logits(self.policy, batch, len(self.tokenizer))
            logprobs, entropies = chosen_and_entropy(logits, batch.targets, self.config.temperature)
            lost = -(advantages[rows][batch.segment_ids] * logprobs).sum() / episodes
            (weight * lost).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                entropy = entropies().sum() / tokens
                add_figures(sums, {"loss": weight * lost.detach(), "entropy": weight * entropy})
        figures = self.reduce_figures(sums)
        self.processes.all_reduce_gradients(self.policy.parameters())
        norm = self.processes.clip_grad_norm(self.policy.parameters(), self.config.max_grad_norm)
        figures["grad_norm"] = norm
        self.optimizer.step()
        return figures
