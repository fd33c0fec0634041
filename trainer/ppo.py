"""PPO: a policy that climbs the reward model, held near a frozen reference by a KL penalty.

Ouyang et al. 2022, eq. 2, with the details of Ziegler et al. 2019 and of
Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO". One update:

 1. sample a response to each prompt of a batch, at the temperature that every later formula uses too;
 2. score it with the reward model; a response that never ended gets a penalty;
 3. log-probabilities under the policy and the reference, and values, by the training forward pass;
 4. rewards: -beta * (log p - log q) at every token, the score at the last; whitened, mean kept;
 5. advantages by GAE, whitened; returns from unwhitened advantages;
 6. a few epochs of clipped policy and value losses over minibatches in a fresh order each; with
    `--ptx-coef`, the likelihood of demonstrations is climbed in the same steps (PPO-ptx).

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

from trainer.data.examples import Messages
from trainer.data.files import read_demonstrations
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.models import load_reward_model
from trainer.engine.optimizer import groups_of
from trainer.engine.responses import response_logits, response_values
from trainer.engine.shared_prefix import Forest
from trainer.errors import TrainerError
from trainer.formulas.advantages import gae, place_rewards
from trainer.formulas.logprobs import chosen_and_entropy
from trainer.formulas.losses import policy_loss, value_loss
from trainer.formulas.masked import masked_mean, masked_var, whiten
from trainer.rl.loop import Online, Planted, run_online
from trainer.rl.rewards import paths_of
from trainer.rl.rollout import Rollout
from trainer.settings.ppo import PPOConfig
from trainer.sft import count_targets, encode, summed_loss, to_rows


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
    spread: Tensor  # (B,) standard deviation of an ensemble's rewards
    planted: Planted  # this process's rows as they were read


def main(config: PPOConfig) -> dict[str, Any]:
    """Optimise the policy; the result is also in result.json."""
    return run_online("ppo", config, Trainer, prompts_a_step=config.batch_size)


class Trainer(Online[PPOConfig]):
    """PPO's four models and one update of it."""

    def __init__(self, config: PPOConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        self.demonstrations = Demonstrations(self) if config.ptx_coef else None

    def load_more(self, device: torch.device) -> list[Any]:
        """The value model: the reward model's copy, or the policy's trunk with a head of zeros."""
        start = paths_of(self.config.reward)[0] if self.same_tokens else self.config.model
        self.value_model = load_reward_model(start, self.tokenizer, device, seed=self.config.seed)
        if not self.same_tokens:
            nn.init.zeros_(self.value_model.score.weight)
        return [self.value_model]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The policy's and the value model's."""
        own = groups_of(self.value_model, base_lr=self.config.value_lr or self.lr)
        return [*super().parameter_groups(), *own]

    def models_to_save(self) -> dict[str, Any]:
        """The policy and the value model."""
        return {**super().models_to_save(), "value_model": self.value_model}

    def state(self) -> dict[str, Any]:
        """Also how many batches of demonstrations were used."""
        made = self.demonstrations.made if self.demonstrations is not None else 0
        return {**super().state(), "ptx_made": made}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state(state)
        if self.demonstrations is not None:
            self.demonstrations.made = int(state["ptx_made"])

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
        if len(self.rewards.members) > 1:
            figures["reward_uncertainty"] = float(experience.spread.mean())
        figures["value_error"] = float(masked_mean(missed**2, mask))
        figures["explained_variance"] = float(1 - masked_var(missed, mask) / spread.clamp(min=1e-8))
        return experience.rollout, figures

    def collect(self, prompts: Sequence[Messages]) -> Experience:
        """Steps 1 to 5 of the module's list."""
        config = self.config
        rollout = self.roll_out(prompts, self.stream)
        mask = rollout.response_mask.float()
        raw, spread = self.score(prompts, rollout)
        scores = self.penalised(raw, rollout)
        planted = self.plant(rollout, self.own_rows(len(prompts)))
        with torch.no_grad():
            logprobs = self.per_micro_batch(rollout, planted, self.logprobs_of, self.policy)
            values = self.per_micro_batch(rollout, planted, response_values, self.value_model)
        reference = self.reference_logprobs(rollout, planted)
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
            spread=spread,
            planted=planted,
        )

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
        """One optimiser step on a minibatch.

        The sums of micro-batches, and of processes, are divided by the tokens of the whole minibatch.
        """
        config = self.config
        tokens = experience.rollout.response_mask[rows].sum().float()
        figures = torch.zeros(len(STEP_FIGURES), device=tokens.device)
        self.optimizer.zero_grad()
        own = self.processes.share(rows.tolist())
        # One minibatch is all of this process's rows, and they are laid out already.
        whole_share = len(own) == sum(len(part) for part, _ in experience.planted)
        planted = experience.planted if whole_share else self.plant(experience.rollout, own)
        for part, forest in planted:
            figures += self.learn_from(experience, part, forest, tokens)
        ptx = self.demonstrations.learn() if self.demonstrations is not None else {}
        sums = dict(zip(STEP_FIGURES, self.processes.add_up(figures).tolist(), strict=True))
        sums["loss"] = sums["policy_loss"] + config.value_coef * sums["value_loss"]
        for name, model in (("grad_norm", self.policy), ("value_grad_norm", self.value_model)):
            self.processes.add_up_gradients(model.parameters())
            sums[name] = self.processes.clip(model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        return sums | ptx

    def learn_from(
        self, experience: Experience, part: Tensor, forest: Forest, tokens: Tensor
    ) -> Tensor:
        """Add the gradients of a few episodes; their share of STEP_FIGURES."""
        config = self.config
        kept = experience.rollout.response_mask[part].bool()
        logits = response_logits(self.policy, forest)
        logprobs, entropies = chosen_and_entropy(logits, forest.targets, config.temperature)  # (M,)
        values = response_values(self.value_model, forest)
        old, old_values = experience.logprobs[part][kept], experience.values[part][kept]
        advantages, returns = experience.advantages[part][kept], experience.returns[part][kept]
        ones = torch.ones_like(old)
        lost, clipped = policy_loss(logprobs, old, advantages, ones, config.clip)
        missed, value_clipped = value_loss(values, old_values, returns, ones, config.value_clip)
        # The two models share nothing, so the weight between their losses only scales the report:
        # on the value model's gradient Adam would undo it, but for its epsilon.
        ((lost + missed) / tokens).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            change = logprobs - old
            share = len(old) / tokens
            parts = (
                lost / tokens,
                missed / tokens,
                clipped * share,
                value_clipped * share,
                0.5 * change.square().sum() / tokens,
                change.exp().sum() / tokens,
                change.exp().var(correction=0) * share,
                entropies().sum() / tokens,
            )
        return torch.stack(parts)


# What a step tells of itself, in the order that `learn_from` adds it up.
STEP_FIGURES = (
    "policy_loss",
    "value_loss",
    "clip_share",
    "value_clip_share",
    "approx_kl",
    "ratio",
    "ratio_var",
    "entropy",
)


class Demonstrations:
    """PPO-ptx: in every step the policy also climbs the likelihood of demonstrations.

    Ouyang et al. 2022, eq. 2: gamma * E[log pi(x)], here over the assistant's turns and as a mean over
    tokens. They draw from the pretraining data; any file of demonstrations will do.
    """

    def __init__(self, trainer: Trainer) -> None:
        config = trainer.config
        self.trainer = trainer
        source = config.ptx_data or config.data
        data = read_demonstrations(source)
        self.rows = to_rows(encode(trainer.encoder, data["train"]), False, 0)
        if not self.rows:
            raise TrainerError(f"{source}: has no demonstrations for --ptx-coef")
        self.size = config.batch_size // config.minibatches
        self.order = Batches(
            len(self.rows), self.size, seed=config.seed, lengths=[*map(count_targets, self.rows)]
        )
        self.made = 0

    def learn(self) -> dict[str, float]:
        """Add the gradient of the next batch; its loss."""
        trainer = self.trainer
        self.made += 1
        batch = [self.rows[index] for index in self.order(self.made)]
        total = sum(map(count_targets, batch))
        own = trainer.processes.share(batch)
        pad = trainer.tokenizer.pad_token_id
        lost = torch.zeros((), device=trainer.processes.device)
        for start in range(0, len(own), trainer.micro_batch):
            part = own[start : start + trainer.micro_batch]
            loss = summed_loss(trainer.policy, part, pad)[0] / total
            (trainer.config.ptx_coef * loss).backward()  # type: ignore[no-untyped-call]
            lost += loss.detach()
        return {"ptx_loss": float(trainer.processes.add_up(lost))}
