"""What PPO and RLOO share: sampling from the policy, scoring, the KL to the reference.

Both train a policy on samples of its own against a reward model, near a frozen reference. A stage gives
its own `training_step`; the loop around it is in `trainer/rl/loop.py`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from trainer.data.examples import Messages, Tally
from trainer.engine.capabilities import check_identity
from trainer.engine.distributed import Processes, wants_shards
from trainer.engine.length_batching import group_by_length
from trainer.engine.lora import adapters_off, base_state
from trainer.engine.models import ends_of, hash_state, max_prompt_tokens_of
from trainer.engine.optimizer import (
    adam,
    groups_of,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    weights_of,
)
from trainer.engine.protocols import AnyModel, Model, Policy
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import PromptResponses, SharedPrefixBatch, build_batch
from trainer.engine.tokens import Encoder
from trainer.formulas.kl import adapt_kl, kl_estimates
from trainer.formulas.schedules import linear_to_zero
from trainer.rl.models import OnPolicyModels
from trainer.rl.rewards import RewardEnsemble, RewardReader
from trainer.rl.rollout import (
    Rollout,
    decode,
    from_rows,
    pick_rows,
    rollout_row,
    rows_of,
    sample,
    scatter_to_padded,
)
from trainer.rl.vllm_client import RolloutServer, seeds_of
from trainer.run.checkpoints import State
from trainer.settings.on_policy import OnPolicyConfig
from trainer.settings.rates import choose_lr

# Episodes in a forward pass, if the run does not say: on a CPU, small batches of like length pad least.
MICRO_BATCH = {"cpu": 16, "cuda": 64}
# Prompts whose samples tell the scale of a reward model that was saved without it.
SCALE_PROMPTS = 64
SAMPLED = "measured on samples of the starting policy"
Config = TypeVar("Config", bound=OnPolicyConfig)


class MicroBatch(NamedTuple):
    """Some rows of a rollout, laid out for a forward pass."""

    rows: Tensor  # which rows
    batch: SharedPrefixBatch
    weight: float = 1.0  # 0 where it is read for company alone: another process has more to read


class Trained(NamedTuple):
    """A model that the optimiser moves beside the policy, and its learning rate (the policy's, if None)."""

    model: Model
    lr: float | None


@dataclass(frozen=True)
class HeldoutEvaluation:
    """Responses to some prompts, their rewards (B,), and the mean KL of a response from the reference."""

    texts: list[str]
    rewards: Tensor
    heldout_rewards: Tensor | None
    kl: float


class OnPolicyTrainer(ABC, Generic[Config]):
    """A policy that learns from its own samples: the models, and one update at a time."""

    def __init__(
        self,
        config: Config,
        processes: Processes,
        models: OnPolicyModels,
        also_trained: Mapping[str, Trained] | None = None,
    ) -> None:
        """Take models that are ready, and make an optimiser for the policy and `also_trained`."""
        self.config, self.processes = config, processes
        self.tokenizer, self.policy, self.reference = (
            models.tokenizer,
            models.policy,
            models.reference,
        )
        self.rewards, self.heldout_rewards = models.rewards, models.heldout_rewards
        others = dict(also_trained or {})
        self.trained: dict[str, Model] = {
            "policy": self.policy,
            **{name: each.model for name, each in others.items()},
        }
        readers = [*models.readers(), *self.trained.values()]
        self.max_prompt_tokens = max_prompt_tokens_of(
            config.max_length, config.response_length, *readers
        )
        self.encoder = Encoder(self.tokenizer, self.max_prompt_tokens + config.response_length)
        self.micro_batch = config.micro_batch or MICRO_BATCH[processes.device.type]
        self.lr, self.lr_source = choose_lr(
            config.lr, "ppo", models.parameters, lora=bool(config.lora_rank)
        )
        self.ends = ends_of(self.policy)
        groups = groups_of(self.policy, of="policy", base_lr=self.lr)
        for name, each in others.items():
            groups += groups_of(each.model, of=name, base_lr=each.lr or self.lr)
        self.optimizer = adam(groups, lr=self.lr, eps=config.adam_eps)
        self.kl_coef = config.kl_coef
        self.ended_by_kl = False
        self.stream = torch.Generator().manual_seed(config.seed)
        self.server = None
        if config.rollout_server:
            prefix = f"plackett-{Path(config.out).resolve().name}"
            folder = Path(config.out) / "served"
            self.server = RolloutServer(config.rollout_server, folder, processes, prefix=prefix)

    @abstractmethod
    def training_step(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """Sample, score, and move the policy; the samples, and the figures of the update."""

    # --- state, for an exact resume

    def state(self) -> State:
        """All that a later start needs to give the same numbers. All processes ask."""
        return {
            **{
                name: weights_of(model, keep=self.processes.first)
                for name, model in self.trained.items()
            },
            "optimizer": optimizer_state(self.optimizer, keep=self.processes.first),
            "kl_coef": self.kl_coef,
            "ended_by_kl": self.ended_by_kl,
            "stream": self.stream.get_state(),
            "reward_scales": [each.scale for each in self.reward_readers()],
        }

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        for name, model in self.trained.items():
            load_weights(model, state[name])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.kl_coef = float(state["kl_coef"])
        self.ended_by_kl = bool(state["ended_by_kl"])
        self.stream.set_state(state["stream"])

    # --- the reward models' scale

    def reward_readers(self) -> list[RewardReader]:
        """All reward models: those that are trained against, then those that are watched."""
        heldout = self.heldout_rewards
        return [*self.rewards.members, *(heldout.members if heldout is not None else [])]

    def normalise_rewards(self, prompts: Sequence[Messages], state: State | None) -> None:
        """Bring reward models that were saved without their scale to mean 0 and unit spread.

        By samples of the policy as it is before any training, two to a prompt, from a random stream of
        their own; a run that goes on takes what it measured at its start.
        """
        unknown = [each for each in self.reward_readers() if each.needs_scale]
        if state is not None:
            for each, scale in zip(self.reward_readers(), state["reward_scales"], strict=True):
                if each in unknown:
                    each.take_scale(float(scale[0]), float(scale[1]), SAMPLED)
            return
        if not unknown:
            return
        some = [each for each in prompts[:SCALE_PROMPTS] for _ in range(2)]
        rollout = self.roll_out(some, torch.Generator().manual_seed(self.config.seed + 2))
        own = self.own_rows(len(some))
        for each in unknown:
            rewards = each.score(
                [some[row] for row in own],
                pick_rows(rollout, own),
                self.tokenizer,
                self.micro_batch,
            )
            scores = self.gather_rows(own, rewards, len(some)).double()
            mean, _ = each.scale
            spread = float(scores.view(-1, 2).var(-1).mean().sqrt())
            # A model that says the same of everything has no spread to bring to 1.
            each.take_scale(mean + float(scores.mean()), spread if spread > 1e-6 else 1.0, SAMPLED)

    # --- one update

    def update(self, prompts: Sequence[Messages], step: int, total: int) -> dict[str, float]:
        """Learn from one batch at this step's learning rate; the figures of the update."""
        started = time.perf_counter()
        rate = linear_to_zero(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        before = self.cut_for_reward()
        rollout, figures = self.training_step(prompts)
        if self.rewards.own_encoders():
            figures["cut_for_reward"] = float(self.cut_for_reward() - before)
        if step == 1 and not self.config.reference:
            check_identity("the first KL of a response", figures["kl"], 0.0, self.config)
        if self.heldout_rewards is not None:
            scores, _ = self.score(prompts, rollout, self.heldout_rewards)
            figures["heldout_score"] = float(scores.mean())
        if self.config.kl_target:
            self.kl_coef = adapt_kl(
                self.kl_coef,
                figures["kl"],
                target=self.config.kl_target,
                horizon=self.config.kl_horizon,
                episodes=self.config.batch_size,
            )
        tokens = float(rollout.response_mask.sum())
        figures["tokens_per_second"] = tokens / (time.perf_counter() - started)
        figures["lr"] = self.lr * rate
        return figures

    def roll_out(self, prompts: Sequence[Messages], stream: torch.Generator) -> Rollout:
        """One response to each prompt. Processes write their shares, and each gets all of them."""
        if self.server is not None:
            return self.roll_out_by_server(self.server, prompts, stream)
        draws = torch.rand((self.config.response_length, len(prompts)), generator=stream)
        divided = wants_shards(self.config.shard)
        shared = 1 < self.processes.count <= len(prompts)
        own = self.processes.share(range(len(prompts))) if shared else range(len(prompts))
        rollout = sample(
            self.policy,
            [self.encoder.prompt(prompts[row], self.max_prompt_tokens) for row in own],
            length=self.config.response_length,
            temperature=self.config.temperature,
            end=self.ends,
            pad=self.tokenizer.pad_token_id,
            known=len(self.tokenizer),
            draws=draws[:, list(own)],
            together=self.processes.any if divided else None,
        )
        if not shared:
            return rollout
        rows = self.processes.all_gather(rows_of(rollout))
        return from_rows(rows, self.tokenizer.pad_token_id, self.processes.device)

    def roll_out_by_server(
        self, server: RolloutServer, prompts: Sequence[Messages], stream: torch.Generator
    ) -> Rollout:
        """The same by a server, which gets the policy as it is now. Each process asks for its share."""
        seeds = seeds_of(stream, len(prompts))
        server.publish(self.policy)
        own = self.processes.share(range(len(prompts)))
        rows = server.sample(
            [self.encoder.prompt(prompts[row], self.max_prompt_tokens) for row in own],
            [seeds[row] for row in own],
            length=self.config.response_length,
            temperature=self.config.temperature,
            end=self.ends,
        )
        rows = self.processes.all_gather(rows)
        return from_rows(rows, self.tokenizer.pad_token_id, self.processes.device)

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, by: RewardEnsemble | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B,) rewards of whole responses, and (B,) how far the members of an ensemble differ."""
        ensemble = by or self.rewards
        own = self.own_rows(len(prompts))
        rewards, reward_std = ensemble.score(
            [prompts[row] for row in own], pick_rows(rollout, own), self.tokenizer, self.micro_batch
        )
        count = len(prompts)
        return self.gather_rows(own, rewards, count), self.gather_rows(own, reward_std, count)

    def with_eos_penalty(self, scores: Tensor, rollout: Rollout) -> Tensor:
        """(B,) scores, less the penalty where a response never ended."""
        return scores - self.config.missing_eos_penalty * (~rollout.ended).float()

    # --- forward passes, in micro-batches and over processes

    def own_rows(self, count: int) -> list[int]:
        """The rows that this process works out: its share. Where a model is divided, all processes go
        through all rows, and where there are fewer rows than processes."""
        if count < self.processes.count or wants_shards(self.config.shard):
            return list(range(count))
        return self.processes.share(range(count))

    def gather_rows(self, rows: Sequence[int], values: Tensor, count: int) -> Tensor:
        """(count, …) the values of all processes, each of its rows."""
        if len(rows) == count:
            return values
        whole = values.new_zeros((count, *values.shape[1:]))
        whole[torch.tensor(rows, device=values.device)] = values
        return self.processes.all_reduce(whole)

    def split_by_length(self, rollout: Rollout, rows: Sequence[int]) -> list[Tensor]:
        """Rows in parts of about the same length, each at most a micro-batch, for little padding."""
        own = torch.tensor(rows)
        lengths = rollout.mask.sum(-1)[own]
        # Processes that hold parts of one model must all make the same number of passes; and on a GPU a
        # pass costs as much as many tokens.
        if wants_shards(self.config.shard) or self.processes.device.type != "cpu":
            order = lengths.cpu().argsort(stable=True)
            return list(torch.split(own[order], self.micro_batch))
        width = int(self.policy.config.get_text_config().hidden_size)
        groups = group_by_length(lengths.tolist(), self.micro_batch, width)
        return [own[group] for group in groups]

    def share_micro_batches(self, rollout: Rollout, rows: Sequence[int]) -> list[MicroBatch]:
        """This process's share of some rows in micro-batches: at least one, and where a model is divided
        as many as every other process has, of weight 0 where there is nothing of its own."""
        divided = wants_shards(self.config.shard)
        parts = self.processes.parts(rows, self.micro_batch, divided=divided)
        own = [row for part, weight in parts if weight for row in part]
        found = self.build_micro_batches(rollout, own) if own else []
        return found + [
            each._replace(weight=0.0)
            for part, weight in parts
            if not weight
            for each in self.build_micro_batches(rollout, part)
        ]

    def build_micro_batches(self, rollout: Rollout, rows: Sequence[int]) -> list[MicroBatch]:
        """Rows of a rollout in micro-batches, without the padding on the left, for any of the models."""
        pad = self.tokenizer.pad_token_id
        micro_batches = []
        for part in self.split_by_length(rollout, rows):
            groups: list[PromptResponses] = [
                (prompt, [response])
                for prompt, response in (rollout_row(rollout, row) for row in part.tolist())
            ]
            micro_batches.append(MicroBatch(part, build_batch(groups, self.policy, pad)))
        return micro_batches

    def per_token(
        self,
        rollout: Rollout,
        micro_batches: Sequence[MicroBatch],
        compute: Callable[[AnyModel, SharedPrefixBatch], Tensor],
        model: AnyModel,
    ) -> Tensor:
        """(B, T) of a function of (model, batch) that gives (M,) values of the response tokens."""
        values = torch.zeros(rollout.response.shape, device=rollout.ids.device)
        for rows, batch, _ in micro_batches:
            values[rows] = scatter_to_padded(compute(model, batch), rollout.response_mask[rows])
        own = sum(len(each.rows) for each in micro_batches)
        return values if own == len(rollout.ids) else self.processes.all_reduce(values)

    def logprobs_of(self, policy: Policy, batch: SharedPrefixBatch) -> Tensor:
        """(M,) log-probabilities of the sampled tokens."""
        return response_token_logprobs(policy, batch, self.config.temperature, len(self.tokenizer))

    def policy_logprobs(self, rollout: Rollout, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """(B, T) log-probabilities of the sampled tokens under the policy, without gradients."""
        with torch.no_grad():
            return self.per_token(rollout, micro_batches, self.logprobs_of, self.policy)

    def reference_logprobs(self, rollout: Rollout, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """(B, T) log-probabilities of the sampled tokens under the reference."""
        if self.reference is None:
            with adapters_off(self.policy):
                return self.policy_logprobs(rollout, micro_batches)
        with torch.no_grad():
            return self.per_token(rollout, micro_batches, self.logprobs_of, self.reference)

    def reduce_figures(self, figures: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures that are sums, added up over the processes."""
        sums = self.processes.all_reduce(torch.stack(list(figures.values())))
        return dict(zip(figures, sums.tolist(), strict=True))

    # --- figures

    def left_out(self) -> Tally:
        """What was left out or cut of data that the stage reads beside the prompts."""
        return Tally()

    def reward_encoders(self) -> list[Encoder]:
        """How the reward models read that have other tokens than the policy."""
        heldout = self.heldout_rewards
        return self.rewards.own_encoders() + (heldout.own_encoders() if heldout else [])

    def cut_for_reward(self) -> int:
        """How many responses the reward models read cut so far, in all processes."""
        own = self.rewards.cut_responses
        if self.processes.count == 1 or wants_shards(self.config.shard):
            return own
        return int(
            self.processes.all_reduce(torch.tensor(float(own), device=self.processes.device))
        )

    def hash_reference(self) -> str:
        """What must be the same at the end of the run."""
        if self.reference is not None:
            return hash_state(self.reference.state_dict())
        return hash_state(base_state(self.policy))

    def rollout_figures(
        self, rollout: Rollout, raw_scores: Tensor, logprobs: Tensor, reference: Tensor
    ) -> dict[str, float]:
        """The figures of a batch of episodes, before it was learnt from.

        raw_scores: (B,) of the reward model; logprobs, reference: (B, T) of the sampled tokens.
        """
        mask = rollout.response_mask.float()
        k1, k2, k3 = ((each * mask).sum(-1).mean() for each in kl_estimates(logprobs, reference))
        kl = float(k1)
        scores = self.with_eos_penalty(raw_scores, rollout)
        return {
            "score": float(raw_scores.mean()),
            "score_std": float(raw_scores.std()) if len(raw_scores) > 1 else 0.0,
            "non_score_reward": -self.kl_coef * kl,
            "rlhf_reward": float(scores.mean()) - self.kl_coef * kl,
            "kl": kl,
            "kl_k2": float(k2),
            "kl_k3": float(k3),
            "kl_coef": self.kl_coef,
            "sequence_entropy": float(-(logprobs * mask).sum(-1).mean()),
            "response_length": float(mask.sum(-1).mean()),
            "ended_share": float(rollout.ended.float().mean()),
        }

    def evaluate(self, prompts: Sequence[Messages]) -> HeldoutEvaluation:
        """Responses for the report and the comparison, drawn from a random stream of their own: the same
        draws each time, and nothing of training's is used up."""
        rollout = self.roll_out(prompts, torch.Generator().manual_seed(self.config.seed + 1))
        micro_batches = self.build_micro_batches(rollout, self.own_rows(len(prompts)))
        own = self.policy_logprobs(rollout, micro_batches)
        other = self.reference_logprobs(rollout, micro_batches)
        heldout = self.heldout_rewards
        return HeldoutEvaluation(
            texts=decode(self.tokenizer, rollout),
            rewards=self.score(prompts, rollout)[0],
            heldout_rewards=self.score(prompts, rollout, heldout)[0] if heldout else None,
            kl=float(((own - other) * rollout.response_mask).sum(-1).mean()),
        )


def add_figures(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add figures to sums of the same names."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value
