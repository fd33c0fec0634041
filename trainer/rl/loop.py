"""What PPO and RLOO share: sampling from the policy, scoring, the KL to the reference, before and after.

Both climb a reward model from samples of the policy itself, held near a frozen reference. A stage gives
its own `update`; everything else of a run is here.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.data.files import read_prompts
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes, load_optimizer_state, wants_shards
from trainer.engine.length_batching import group_by_length
from trainer.engine.lora import adapters_off, base_state, save_adapters
from trainer.engine.models import (
    choose_device,
    count_parameters,
    hash_state,
    load_policy,
    make_repeatable,
    response_room,
)
from trainer.engine.onednn import linear_library
from trainer.engine.optimizer import adam, groups_of, load_weights, optimizer_state, weights_of
from trainer.engine.prepare import equip, whole_model
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import Forest, Tree, plant
from trainer.engine.tokens import Encoder, load_tokenizer, same_tokens
from trainer.errors import TrainerError
from trainer.formulas.evaluation import wilson
from trainer.formulas.kl import adapt_kl, kl_estimates
from trainer.formulas.schedules import default_lr, linear_to_zero
from trainer.rl.rewards import Scorers, paths_of
from trainer.rl.rollout import (
    Rollout,
    decode,
    from_rows,
    pick_rows,
    rollout_row,
    rows_of,
    sample,
    spread,
)
from trainer.rl.vllm_client import RolloutServer, seeds_of
from trainer.run.artifacts import finish
from trainer.run.directory import Run
from trainer.run.files import hash_model_files
from trainer.run.report import Sample, draw_frontier
from trainer.settings.online import OnlineConfig

HELD_OUT_PROMPTS = 64
REPORTED_SAMPLES = 8
# Episodes in a forward pass, if the run does not say: on a CPU, small batches of like length pad least.
MICRO_BATCH = {"cpu": 16, "cuda": 64}
Config = TypeVar("Config", bound=OnlineConfig)
Planted = list[tuple[Tensor, Forest]]  # micro-batches: which rows, and the rows


@dataclass(frozen=True)
class Judged:
    """Responses to some prompts, their rewards (B,), and the mean KL of a response from the reference."""

    texts: list[str]
    rewards: Tensor
    gold: Tensor | None
    kl: float


class Online(ABC, Generic[Config]):
    """A policy that learns from its own samples: the models, and one update at a time."""

    def __init__(self, config: Config, processes: Processes) -> None:
        processes.check_batch(config.batch_size)
        self.config, self.processes = config, processes
        device = processes.device
        self.tokenizer = load_tokenizer(config.model)
        self.policy = self.load_policy()
        if config.reference and not same_tokens(self.tokenizer, load_tokenizer(config.reference)):
            raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
        # With adapters, the policy with its adapters off is the reference: there is no second copy.
        self.reference: Any = None
        if not config.lora_rank:
            self.reference = self.load_policy(config.reference or config.model)
            self.reference.requires_grad_(False)
        self.rewards = Scorers(
            config.reward,
            config.max_length,
            self.tokenizer,
            device,
            how=config.ensemble,
            coefficient=config.uncertainty_coef,
        )
        self.gold = (
            Scorers(config.gold, config.max_length, self.tokenizer, device) if config.gold else None
        )
        self.same_tokens = self.rewards.first.same_tokens
        own = self.load_more(device)
        models = [self.policy, *own, *self.rewards.windows()]
        models += self.gold.windows() if self.gold else []
        models += [self.reference] if self.reference is not None else []
        self.room = response_room(config.max_length, config.response_length, *models)
        self.encoder = Encoder(self.tokenizer, self.room + config.response_length)
        self.micro_batch = config.micro_batch or MICRO_BATCH[device.type]
        self.lr = config.lr or default_lr(3e-6, 6.9e9, count_parameters(self.policy))
        for model in (self.policy, *own):
            equip(model, config, processes, quick=True)
        if self.reference is not None:
            equip(self.reference, config, processes, learns=False, quick=True)
        for scorers in (self.rewards, self.gold):
            if scorers is not None:
                scorers.equip(config, processes)
        self.optimizer = adam(self.parameter_groups(), lr=self.lr)
        self.kl_coef = config.kl_coef
        self.ended_by_kl = False
        self.stream = torch.Generator().manual_seed(config.seed)
        self.server = None
        if config.rollout_server:
            name = f"plackett-{Path(config.out).resolve().name}-{processes.rank}"
            folder = Path(config.out) / "served"
            self.server = RolloutServer(config.rollout_server, folder, prefix=name)

    def load_policy(self, path: str | None = None) -> Any:
        """The starting model, or another with the same tokens."""
        return load_policy(path or self.config.model, self.tokenizer, self.processes.device)

    # --- what a stage gives

    @abstractmethod
    def improve(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """Sample, score, and move the policy; the samples, and the figures of the update."""

    def load_more(self, device: torch.device) -> list[Any]:
        """Further models that the stage needs, which read what the policy reads."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser moves, each group with its own learning rate as `base_lr`."""
        return groups_of(self.policy, base_lr=self.lr)

    def models_to_save(self) -> dict[str, Any]:
        """The models that move, by name."""
        return {"policy": self.policy}

    # --- state, for an exact resume

    def state(self) -> dict[str, Any]:
        """All that a later start needs to give the same numbers. All processes ask."""
        return {
            **{name: weights_of(model) for name, model in self.models_to_save().items()},
            "optimizer": optimizer_state(self.optimizer),
            "kl_coef": self.kl_coef,
            "ended_by_kl": self.ended_by_kl,
            "stream": self.stream.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, model in self.models_to_save().items():
            load_weights(model, state[name])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.kl_coef = float(state["kl_coef"])
        self.ended_by_kl = bool(state["ended_by_kl"])
        self.stream.set_state(state["stream"])

    # --- one update

    def update(self, prompts: Sequence[Messages], step: int, total: int) -> dict[str, float]:
        """Learn from one batch at this step's learning rate; the figures of the update."""
        started = time.perf_counter()
        rate = linear_to_zero(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        rollout, figures = self.improve(prompts)
        if self.gold is not None:
            figures["gold_score"] = float(self.score(prompts, rollout, self.gold)[0].mean())
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
            return self.roll_out_there(self.server, prompts, stream)
        draws = torch.rand((self.config.response_length, len(prompts)), generator=stream)
        divided = wants_shards(self.config.shard)
        shared = 1 < self.processes.count <= len(prompts)
        own = self.processes.share(range(len(prompts))) if shared else range(len(prompts))
        rollout = sample(
            self.policy,
            [self.encoder.prompt(prompts[row], self.room) for row in own],
            length=self.config.response_length,
            temperature=self.config.temperature,
            end=self.tokenizer.eos_token_id,
            pad=self.tokenizer.pad_token_id,
            draws=draws[:, list(own)],
            together=self.processes.any if divided else None,
        )
        if not shared:
            return rollout
        rows = self.processes.collect(rows_of(rollout))
        return from_rows(rows, self.tokenizer.pad_token_id, self.processes.device)

    def roll_out_there(
        self, server: RolloutServer, prompts: Sequence[Messages], stream: torch.Generator
    ) -> Rollout:
        """The same by a server, which gets the policy as it is now. Each process asks for its share."""
        seeds = seeds_of(stream, len(prompts))
        server.publish(self.policy)
        own = self.processes.share(range(len(prompts)))
        rows = server.sample(
            [self.encoder.prompt(prompts[row], self.room) for row in own],
            [seeds[row] for row in own],
            length=self.config.response_length,
            temperature=self.config.temperature,
            end=self.tokenizer.eos_token_id,
        )
        rows = self.processes.collect(rows)
        return from_rows(rows, self.tokenizer.pad_token_id, self.processes.device)

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, by: Scorers | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B,) rewards of whole responses, and (B,) how far the members of an ensemble differ."""
        scorers, size = by or self.rewards, self.micro_batch
        own = self.own_rows(len(prompts))
        found = scorers.score(
            [prompts[row] for row in own], pick_rows(rollout, own), self.tokenizer, size
        )
        rewards, spread = (self.fill(own, part, len(prompts)) for part in found)
        return rewards, spread

    def own_rows(self, count: int) -> list[int]:
        """The rows that this process works out: its share. Where a model is divided, all processes go
        through all rows, and where there are fewer rows than processes."""
        if count < self.processes.count or wants_shards(self.config.shard):
            return list(range(count))
        return self.processes.share(range(count))

    def fill(self, rows: Sequence[int], values: Tensor, count: int) -> Tensor:
        """(count, …) the values of all processes, each of its rows."""
        if len(rows) == count:
            return values
        whole = values.new_zeros((count, *values.shape[1:]))
        whole[torch.tensor(rows, device=values.device)] = values
        return self.processes.add_up(whole)

    def penalised(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """(B,) scores, less the penalty where a response never ended."""
        return raw - self.config.missing_eos_penalty * (~rollout.ended).float()

    def parts(self, rollout: Rollout, rows: Sequence[int]) -> list[Tensor]:
        """Rows in micro-batches of about the same length, for little padding."""
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

    def plant(self, rollout: Rollout, rows: Sequence[int]) -> Planted:
        """Rows of a rollout in micro-batches, without the padding on the left, for any of the models."""
        pad = self.tokenizer.pad_token_id
        found = []
        for part in self.parts(rollout, rows):
            trees: list[Tree] = [
                (prompt, [response])
                for prompt, response in (rollout_row(rollout, row) for row in part.tolist())
            ]
            found.append((part, plant(trees, self.policy, pad)))
        return found

    def per_micro_batch(self, rollout: Rollout, planted: Planted, what: Any, model: Any) -> Tensor:
        """(B, T) of a function of (model, forest) that gives (M,) values of the response tokens."""
        found = torch.zeros(rollout.response.shape, device=rollout.ids.device)
        for rows, forest in planted:
            found[rows] = spread(what(model, forest), rollout.response_mask[rows])
        own = sum(len(rows) for rows, _ in planted)
        return found if own == len(rollout.ids) else self.processes.add_up(found)

    def reference_logprobs(self, rollout: Rollout, planted: Planted) -> Tensor:
        """(B, T) log-probabilities of the sampled tokens under the reference."""
        with torch.no_grad():
            if self.reference is not None:
                return self.per_micro_batch(rollout, planted, self.logprobs_of, self.reference)
            with adapters_off(self.policy):
                return self.per_micro_batch(rollout, planted, self.logprobs_of, self.policy)

    def hash_reference(self) -> str:
        """What must be the same at the end of the run."""
        if self.reference is not None:
            return hash_state(self.reference.state_dict())
        return hash_state(base_state(self.policy))

    def logprobs_of(self, policy: Any, forest: Forest) -> Tensor:
        """(M,) log-probabilities of the sampled tokens."""
        return response_token_logprobs(policy, forest, self.config.temperature)

    def describe(
        self, rollout: Rollout, raw: Tensor, logprobs: Tensor, reference: Tensor
    ) -> dict[str, float]:
        """The figures of a batch of episodes, before it was learnt from.

        raw: (B,) the reward model's scores; logprobs, reference: (B, T) of the sampled tokens.
        """
        mask = rollout.response_mask.float()
        k1, k2, k3 = ((each * mask).sum(-1).mean() for each in kl_estimates(logprobs, reference))
        kl = float(k1)
        scores = self.penalised(raw, rollout)
        return {
            "score": float(raw.mean()),
            "score_std": float(raw.std()) if len(raw) > 1 else 0.0,
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

    # --- before and after

    def judge(self, prompts: Sequence[Messages]) -> Judged:
        """Responses for the report and the comparison, drawn from a random stream of their own: the same
        draws each time, and nothing of training's is used up."""
        rollout = self.roll_out(prompts, torch.Generator().manual_seed(self.config.seed + 1))
        planted = self.plant(rollout, self.own_rows(len(prompts)))
        with torch.no_grad():
            own = self.per_micro_batch(rollout, planted, self.logprobs_of, self.policy)
        other = self.reference_logprobs(rollout, planted)
        return Judged(
            texts=decode(self.tokenizer, rollout),
            rewards=self.score(prompts, rollout)[0],
            gold=self.score(prompts, rollout, self.gold)[0] if self.gold else None,
            kl=float(((own - other) * rollout.response_mask).sum(-1).mean()),
        )


def run_online(
    stage: str,
    config: Config,
    create: Callable[[Config, Processes], Online[Config]],
    *,
    prompts_a_step: int,
) -> dict[str, Any]:
    """A whole run of a stage; the result is also in result.json."""
    processes = Processes(choose_device(config.device))
    make_repeatable(config.seed, processes.device)
    data = read_prompts(config.data)
    prompts = [each.messages for each in data["train"]]
    held_out = [each.messages for each in data["validation"] or data["test"]][:HELD_OUT_PROMPTS]
    if not prompts:
        raise TrainerError(f"{config.data}: has no prompts to train on")
    trainer = create(config, processes)
    total = config.steps or max(1, round(config.epochs * len(prompts) / prompts_a_step))
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "reward_hash": [hash_model_files(path) for path in paths_of(config.reward)],
        "reference_hash": hash_model_files(config.reference or config.model),
        "lr": trainer.lr,
        "linear": linear_library(),
        "window": trainer.room + config.response_length,
        "same_tokens": trainer.same_tokens,
    }
    frozen = trainer.hash_reference()
    with Run(stage, config, facts, processes) as run:
        state = run.open(total)
        before = trainer.judge(held_out) if held_out else None
        if state:
            trainer.load_state(state)
        train(trainer, run, prompts, prompts_a_step)
        if trainer.hash_reference() != frozen:
            raise TrainerError("the reference moved: this is a fault of the program")
        after = trainer.judge(held_out) if held_out else None
        if config.lora_rank:
            save_adapters(trainer.policy, run.folder / "adapter", writes=processes.first)
        result: dict[str, Any] = {"stage": stage, "steps": run.last_step}
        result |= {
            "ended_by_kl": trainer.ended_by_kl,
            "episodes": run.last_step * config.batch_size,
        }
        if processes.first:
            result |= summarise(run.read_metrics()[-10:])
        samples: list[Sample] = []
        if before is not None and after is not None:
            result["held_out"] = compare(before, after)
            samples = to_samples(held_out, before, after)
        result["left_out"] = {**data.left_out, **trainer.encoder.cut}
        watched = ("score", "gold_score") if config.gold else ("score",)
        finish(
            run,
            model=whole_model(trainer.policy, trainer.load_policy, config),
            tokenizer=trainer.tokenizer,
            result=result,
            samples=samples,
            drawings=[draw_frontier(run.read_metrics(), watched)] if processes.first else [],
        )
    return result


def summarise(last: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The last updates in a few figures."""
    names = ["score", "kl", *(name for name in ("gold_score",) if name in last[-1])]
    figures = {name: sum(row[name] for row in last) / len(last) for name in names}
    return figures | {"kl_coef": last[-1]["kl_coef"]}


def train(trainer: Online[Any], run: Run, prompts: Sequence[Messages], prompts_a_step: int) -> None:
    """All updates that are still to be made."""
    config = trainer.config
    if trainer.ended_by_kl:  # resumed where it had ended
        return
    order = Batches(len(prompts), prompts_a_step, seed=config.seed)
    for step in run.steps():
        figures = trainer.update([prompts[index] for index in order(step)], step, run.total_steps)
        run.log(step, **figures)
        trainer.ended_by_kl = config.kl_stop is not None and figures["kl"] > config.kl_stop
        if run.wants_checkpoint(step, trainer.ended_by_kl):
            run.save_checkpoint(step, trainer.state())
        if trainer.ended_by_kl:
            return


def compare(before: Judged, after: Judged) -> dict[str, Any]:
    """The policy against where it started, on prompts that it never trained on, by the reward model."""
    wins = (after.rewards > before.rewards).float()
    wins = wins + 0.5 * (after.rewards == before.rewards).float()
    win_rate = float(wins.mean())
    gold = {}
    if before.gold is not None and after.gold is not None:
        gold_wins = (after.gold > before.gold).float() + 0.5 * (after.gold == before.gold).float()
        gold = {
            "gold_win_rate": float(gold_wins.mean()),
            "gold_score": float(after.gold.mean()),
            "start_gold_score": float(before.gold.mean()),
        }
    return {
        "prompts": len(wins),
        "win_rate": win_rate,
        "win_rate_interval": wilson(win_rate, len(wins)),
        "score": float(after.rewards.mean()),
        "start_score": float(before.rewards.mean()),
        "kl": after.kl,
        **gold,
    }


def to_samples(prompts: Sequence[Messages], before: Judged, after: Judged) -> list[Sample]:
    """The first few responses, for the report."""
    return [
        Sample(
            prompt=messages[-1]["content"],
            before=before.texts[place],
            after=after.texts[place],
            reward_before=float(before.rewards[place]),
            reward_after=float(after.rewards[place]),
        )
        for place, messages in enumerate(prompts[:REPORTED_SAMPLES])
    ]
