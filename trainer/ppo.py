"""PPO: a policy trained against a reward model, held near a frozen reference by a KL penalty.

Ouyang et al. 2022, eq. 2, with the details of Ziegler et al. 2019 and of
Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO". One update:

 1. sample a response to each prompt of a batch, at the temperature that every later formula uses too;
 2. score it with the reward model, normalised (`--normalise-rewards`; see `trainer/rl/rewards.py`); a
    response that never ended gets a penalty;
 3. log-probabilities under the policy and the reference, and values, by the training forward pass;
 4. rewards: -beta * (log p - log q) at every token, the score at the last; whitened, mean kept;
 5. advantages by GAE, whitened; returns from unwhitened advantages;
 6. a few epochs of clipped policy and value losses over minibatches in a fresh order each; with
    `--ptx-coef`, the likelihood of demonstrations is raised in the same steps (PPO-ptx).

The value model is a copy of the reward model, its head read at every token. Where its tokens differ from
the policy's, the value model is the policy's own trunk with a head of zeros.

Departures from the papers: gradients are clipped by norm, each model's alone; advantages are whitened over
the whole batch of episodes, not over each minibatch; a response's missing end costs a subtracted penalty
(Ziegler et al. replace the score).

    python -m trainer ppo --data EXPORT --model MODEL --reward RUN/model --out RUN
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.data.examples import Messages, Tally
from trainer.data.files import read_demonstrations
from trainer.data.values import Result
from trainer.engine.batches import Batches
from trainer.engine.capabilities import check_identity
from trainer.engine.distributed import Processes, wants_shards
from trainer.engine.encoding import nothing_left
from trainer.engine.models import load_reward_model
from trainer.engine.prepare import prepare_model
from trainer.engine.protocols import RewardModel
from trainer.engine.responses import response_logits, response_values
from trainer.engine.tokens import Encoder
from trainer.formulas.advantages import gae, rewards_per_token
from trainer.formulas.logprobs import chosen_and_entropy
from trainer.formulas.losses import policy_loss, value_loss
from trainer.formulas.masked import masked_mean, masked_var, whiten
from trainer.rl.loop import run_on_policy
from trainer.rl.models import OnPolicyModels, load_models
from trainer.rl.rollout import Rollout
from trainer.rl.trainer import MicroBatch, OnPolicyTrainer, Trained, add_figures
from trainer.run.checkpoints import State
from trainer.settings.ppo import PPOConfig
from trainer.sft import Row, count_targets, encode, sum_losses, to_rows


@dataclass(frozen=True)
class Experience:
    """What one batch of episodes teaches. All (B, T) but `rollout` and the scores (B,)."""

    rollout: Rollout
    logprobs: Tensor  # of the policy that sampled, "old" in the losses
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor  # (B,) with EOS penalty
    raw_scores: Tensor
    reward_std: Tensor  # (B,) standard deviation of an ensemble's rewards
    micro_batches: list[MicroBatch]  # this process's rows as they were read


def main(config: PPOConfig) -> Result:
    """Optimise the policy; the result is also in result.json."""
    return run_on_policy("ppo", config, PPOTrainer, prompts_per_step=config.batch_size)


class PPOTrainer(OnPolicyTrainer[PPOConfig]):
    """PPO's four models and one update of it."""

    def __init__(self, config: PPOConfig, processes: Processes) -> None:
        models = load_models(config, processes)
        self.value_model = load_value_model(config, models, processes)
        value = Trained(self.value_model, config.value_lr)
        super().__init__(config, processes, models, {"value_model": value})
        self.ptx = Demonstrations(config, self.encoder) if config.ptx_coef else None

    def normalise_rewards(self, prompts: Sequence[Messages], state: State | None) -> None:
        """And let the value model go with its reward model."""
        first = self.rewards.first
        measures = first.needs_scale and first.same_tokens
        super().normalise_rewards(prompts, state)
        if measures:
            scale_head(self.value_model, *first.scale)

    def training_step(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """One update of the module's list."""
        experience = self.collect(prompts)  # 1 to 5
        figures = self.update_policy(experience)  # 6
        return experience.rollout, figures | self.experience_figures(experience)

    def collect(self, prompts: Sequence[Messages]) -> Experience:
        """Steps 1 to 5 of the module's list."""
        config = self.config
        rollout = self.roll_out(prompts, self.stream)  # 1
        mask = rollout.response_mask.float()

        raw_scores, reward_std = self.score(prompts, rollout)  # 2
        scores = self.with_eos_penalty(raw_scores, rollout)

        micro_batches = self.build_micro_batches(rollout, self.own_rows(len(prompts)))  # 3
        logprobs = self.policy_logprobs(rollout, micro_batches)
        reference = self.reference_logprobs(rollout, micro_batches)
        with torch.no_grad():
            values = self.per_token(rollout, micro_batches, response_values, self.value_model)

        rewards = rewards_per_token(scores, logprobs, reference, mask, self.kl_coef)  # 4
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)

        advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)  # 5
        return Experience(
            rollout=rollout,
            logprobs=logprobs * mask,
            reference=reference * mask,
            values=values * mask,
            advantages=whiten(advantages, mask),
            returns=returns,
            scores=scores,
            raw_scores=raw_scores,
            reward_std=reward_std,
            micro_batches=micro_batches,
        )

    def update_policy(self, experience: Experience) -> dict[str, float]:
        """Step 6 of the module's list. Figures are means over all minibatches."""
        config = self.config
        episodes = len(experience.raw_scores)
        steps = 0
        sums: dict[str, float] = {}
        for _ in range(config.ppo_epochs):
            order = torch.randperm(episodes, generator=self.stream)
            for rows in torch.split(order, episodes // config.minibatches):
                figures = self.minibatch_step(experience, rows)
                if not steps:
                    check_identity("an update's first ratio", figures["ratio"], 1.0, config)
                steps += 1
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + value
        return {name: value / steps for name, value in sums.items()}

    def minibatch_step(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """One optimiser step on a minibatch.

        The sums of micro-batches, and of processes, are divided by the tokens of the whole minibatch.
        """
        config = self.config
        tokens = experience.rollout.response_mask[rows].sum().float()
        self.optimizer.zero_grad()
        micro_batches = experience.micro_batches
        # One minibatch is all rows, and each process's share of them is laid out already; else lay it out.
        if config.minibatches > 1 or wants_shards(config.shard):
            micro_batches = self.share_micro_batches(experience.rollout, rows.tolist())
        sums: dict[str, Tensor] = {}
        for micro_batch in micro_batches:
            add_figures(sums, self.add_gradients(experience, micro_batch, tokens))
        ptx = self.add_ptx_gradients(self.ptx) if self.ptx is not None else {}
        figures = self.reduce_figures(sums)
        # The variance over all tokens: those of parts would say nothing of how the parts differ.
        square = figures.pop("ratio_square")
        figures["ratio_var"] = max(0.0, square - (figures["ratio"] - 1) ** 2)
        figures["loss"] = figures["policy_loss"] + config.value_coef * figures["value_loss"]
        for name, model in (("grad_norm", self.policy), ("value_grad_norm", self.value_model)):
            self.processes.all_reduce_gradients(model.parameters())
            figures[name] = self.processes.clip_grad_norm(model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        return figures | ptx

    def add_gradients(
        self, experience: Experience, micro_batch: MicroBatch, tokens: Tensor
    ) -> dict[str, Tensor]:
        """The policy's and the value model's gradients of a few episodes, added to those before; their
        share of the minibatch's figures."""
        config = self.config
        rows, batch, weight = micro_batch
        kept = experience.rollout.response_mask[rows].bool()
        old, old_values = experience.logprobs[rows][kept], experience.values[rows][kept]  # (M,)
        advantages, returns = experience.advantages[rows][kept], experience.returns[rows][kept]
        logits = response_logits(self.policy, batch, len(self.tokenizer))
        logprobs, entropies = chosen_and_entropy(logits, batch.targets, config.temperature)  # (M,)
        values = response_values(self.value_model, batch)
        ones = torch.ones_like(old)
        lost, clipped = policy_loss(logprobs, old, advantages, ones, config.clip)
        value_lost, value_clipped = value_loss(values, old_values, returns, ones, config.value_clip)
        # The two models share nothing, so the weight between their losses only scales the report:
        # on the value model's gradient Adam would undo it, but for its epsilon.
        (weight * (lost + value_lost) / tokens).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            change = logprobs - old
            share = len(old) / tokens
            figures = {
                "policy_loss": lost / tokens,
                "value_loss": value_lost / tokens,
                "clip_share": clipped * share,
                "value_clip_share": value_clipped * share,
                "approx_kl": 0.5 * change.square().sum() / tokens,
                "ratio": change.exp().sum() / tokens,
                "ratio_square": change.expm1().square().sum() / tokens,  # about 1
                "entropy": entropies().sum() / tokens,
            }
            return {name: weight * value for name, value in figures.items()}

    def add_ptx_gradients(self, ptx: "Demonstrations") -> dict[str, float]:
        """The policy's gradient of the next batch of demonstrations, added; its loss."""
        batch = ptx.next_batch()
        total = sum(map(count_targets, batch))
        divided = wants_shards(self.config.shard)
        lost = torch.zeros((), device=self.processes.device)
        for part, weight in self.processes.parts(batch, self.micro_batch, divided=divided):
            loss = sum_losses(self.policy, part, self.tokenizer.pad_token_id).loss * weight / total
            (self.config.ptx_coef * loss).backward()  # type: ignore[no-untyped-call]
            lost += loss.detach()
        return {"ptx_loss": float(self.processes.all_reduce(lost))}

    def experience_figures(self, experience: Experience) -> dict[str, float]:
        """The figures of a batch of episodes, before it was learnt from."""
        mask = experience.rollout.response_mask.float()
        missed = experience.returns - experience.values
        variance = masked_var(experience.returns, mask).clamp(min=1e-8)
        figures = self.rollout_figures(
            experience.rollout, experience.raw_scores, experience.logprobs, experience.reference
        )
        if len(self.rewards.members) > 1:
            figures["reward_uncertainty"] = float(experience.reward_std.mean())
        figures["value_error"] = float(masked_mean(missed**2, mask))
        figures["explained_variance"] = float(1 - masked_var(missed, mask) / variance)
        return figures

    def left_out(self) -> Tally:
        """Of the demonstrations."""
        tally = Tally()
        if self.ptx is not None:
            tally.include(self.ptx.left_out, "ptx: ")
        return tally

    def state(self) -> State:
        """Also how many batches of demonstrations were used."""
        return {**super().state(), "ptx_made": self.ptx.used if self.ptx is not None else 0}

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        super().load_state(state)
        if self.ptx is not None:
            self.ptx.used = int(state["ptx_made"])


def load_value_model(
    config: PPOConfig, models: OnPolicyModels, processes: Processes
) -> RewardModel:
    """The reward model's copy, with its scale; where its tokens are others, the policy's trunk with a head
    of zeros."""
    device = processes.loading_device(config.shard)
    first = models.rewards.first
    start = first.path if first.same_tokens else config.model
    value_model = load_reward_model(start, models.tokenizer, device, seed=config.seed)
    if first.same_tokens:
        scale_head(value_model, *first.scale)
    else:
        nn.init.zeros_(value_model.score.weight)
    return prepare_model(value_model, config, processes, onednn=True)


def scale_head(model: RewardModel, mean: float, spread: float) -> None:
    """Let a model say (r - mean) / spread where its head says r."""
    with torch.no_grad():
        for each in model.score.parameters():
            each.div_(spread)
    model.config.reward_mean = mean / spread


class Demonstrations:
    """PPO-ptx: in every step the policy also raises the likelihood of demonstrations.

    Ouyang et al. 2022, eq. 2: gamma * E[log pi(x)], here over the assistant's turns and as a mean over
    tokens. They draw from the pretraining data; any file of demonstrations will do.
    """

    def __init__(self, config: PPOConfig, encoder: Encoder) -> None:
        source = config.ptx_data or config.data
        data = read_demonstrations(source)
        self.left_out = data.left_out
        self.rows = to_rows(encode(encoder, data["train"], data.left_out), False, 0)
        if not self.rows:
            raise nothing_left(source, "demonstrations for --ptx-coef", data.left_out)
        self.order = Batches(
            len(self.rows),
            config.batch_size // config.minibatches,
            seed=config.seed,
            lengths=[*map(count_targets, self.rows)],
        )
        self.used = 0  # batches

    def next_batch(self) -> list[Row]:
        """The next batch of demonstrations."""
        self.used += 1
        return [self.rows[index] for index in self.order(self.used)]
