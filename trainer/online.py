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

from trainer.config import default_lr
from trainer.data import Messages, read_prompts
from trainer.errors import TrainerError
from trainer.losses import adapt_kl, kl_estimates, token_logprobs
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    fit_window,
    hash_parameters,
    load_policy,
    load_scorer,
    load_tokenizer,
    make_repeatable,
    response_logits,
    response_room,
    same_tokens,
    save_model,
    score_texts,
    token_rewards,
)
from trainer.report import Sample, write_report
from trainer.reward import wilson
from trainer.rollout import Rollout, decode, sample
from trainer.runs import Batches, Run, hash_model_files, linear_to_zero
from trainer.stages import OnlineConfig

HELD_OUT_PROMPTS = 64
REPORTED_SAMPLES = 8
Config = TypeVar("Config", bound=OnlineConfig)
Curves = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Judged:
    """Responses to some prompts, their rewards (B,), and the mean KL of a response from the reference."""

    texts: list[str]
    rewards: Tensor
    kl: float


class Online(ABC, Generic[Config]):
    """A policy that learns from its own samples: the models, and one update at a time."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(config.model)
        self.policy = load_policy(config.model, self.tokenizer, device)
        if config.reference and not same_tokens(self.tokenizer, load_tokenizer(config.reference)):
            raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
        self.reference = load_policy(config.reference or config.model, self.tokenizer, device)
        self.reference.requires_grad_(False)
        self.reward_tokenizer = load_tokenizer(config.reward)
        self.reward_model = load_scorer(config.reward, self.reward_tokenizer, device)
        self.same_tokens = same_tokens(self.tokenizer, self.reward_tokenizer)
        models = [self.policy, self.reference, *self.load_more(device)]
        if self.same_tokens:
            models.append(self.reward_model)
        self.room = response_room(config.max_length, config.response_length, *models)
        self.encoder = Encoder(self.tokenizer, self.room + config.response_length)
        self.reward_encoder = Encoder(
            self.reward_tokenizer, fit_window(config.max_length, self.reward_model)
        )
        self.lr = config.lr or default_lr(3e-6, 6.9e9, count_parameters(self.policy))
        self.optimizer = torch.optim.Adam(self.parameter_groups(), lr=self.lr, eps=1e-5)
        self.kl_coef = config.kl_coef
        self.ended_by_kl = False
        self.stream = torch.Generator().manual_seed(config.seed)

    # --- what a stage gives

    @abstractmethod
    def improve(self, prompts: Sequence[Messages]) -> tuple[Rollout, dict[str, float]]:
        """Sample, score, and move the policy; the samples, and the figures of the update."""

    def load_more(self, device: torch.device) -> list[Any]:
        """Further models that the stage needs, which read what the policy reads."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser moves, each group with its own learning rate as `base_lr`."""
        return [{"params": list(self.policy.parameters()), "base_lr": self.lr}]

    def models_to_save(self) -> dict[str, Any]:
        """The models that move, by name."""
        return {"policy": self.policy}

    # --- state, for an exact resume

    def state(self) -> dict[str, Any]:
        """All that a later start needs to give the same numbers."""
        return {
            **{name: model.state_dict() for name, model in self.models_to_save().items()},
            "optimizer": self.optimizer.state_dict(),
            "kl_coef": self.kl_coef,
            "ended_by_kl": self.ended_by_kl,
            "stream": self.stream.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, model in self.models_to_save().items():
            model.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
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
        """One response to each prompt."""
        return sample(
            self.policy,
            [self.encoder.prompt(messages, self.room) for messages in prompts],
            length=self.config.response_length,
            temperature=self.config.temperature,
            end=self.tokenizer.eos_token_id,
            pad=self.tokenizer.pad_token_id,
            stream=stream,
        )

    def score(self, prompts: Sequence[Messages], rollout: Rollout) -> Tensor:
        """(B,) rewards of whole responses, as the reward model was trained to read them.

        With the same tokens the sampled ids are reused, and a response that was cut gets the end token
        that all of the reward model's data had; otherwise the text is tokenised again.
        """
        if not self.same_tokens:
            texts = decode(self.tokenizer, rollout)
            pairs = list(zip(prompts, texts, strict=True))
            return score_texts(self.reward_model, self.reward_encoder, pairs).to(rollout.ids.device)
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        ids = torch.cat([rollout.ids, torch.full_like(rollout.ids[:, :1], pad)], dim=1)
        mask = torch.cat([rollout.mask, torch.zeros_like(rollout.mask[:, :1])], dim=1)
        start = rollout.ids.shape[1] - rollout.length
        after = start + rollout.response_mask.sum(-1)  # the place behind the response
        cut = (~rollout.ended).nonzero()[:, 0]
        ids[cut, after[cut]] = end
        mask[cut, after[cut]] = 1
        scores = []
        with torch.no_grad():
            for part in torch.split(torch.arange(len(ids)), self.config.micro_batch):
                places = torch.arange(mask.shape[1], device=mask.device)
                last = (places * mask[part]).argmax(-1)
                read = token_rewards(self.reward_model, ids[part], mask[part])
                scores.append(read.gather(1, last[:, None])[:, 0])
        return torch.cat(scores)

    def penalised(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """(B,) scores, less the penalty where a response never ended."""
        return raw - self.config.missing_eos_penalty * (~rollout.ended).float()

    def per_micro_batch(self, rollout: Rollout, what: Any, model: Any) -> Tensor:
        """(B, T) of a function that is worked out a few rows at a time."""
        parts = torch.split(torch.arange(len(rollout.ids)), self.config.micro_batch)
        return torch.cat([what(model, rollout, rows) for rows in parts])

    def logprobs_of(self, policy: Any, rollout: Rollout, rows: Tensor) -> Tensor:
        """(b, T) log-probabilities of the sampled tokens of some rows."""
        logits = response_logits(policy, rollout.ids[rows], rollout.mask[rows], rollout.length)
        return token_logprobs(logits, rollout.response[rows], self.config.temperature)

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
        with torch.no_grad():
            own = self.per_micro_batch(rollout, self.logprobs_of, self.policy)
            other = self.per_micro_batch(rollout, self.logprobs_of, self.reference)
        return Judged(
            texts=decode(self.tokenizer, rollout),
            rewards=self.score(prompts, rollout),
            kl=float(((own - other) * rollout.response_mask).sum(-1).mean()),
        )


def run_online(
    stage: str,
    title: str,
    config: Config,
    create: Callable[[Config, torch.device], Online[Config]],
    *,
    curves: Curves,
    prompts_a_step: int,
) -> dict[str, Any]:
    """A whole run of a stage; the result is also in result.json."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_prompts(config.data)
    prompts = [each.messages for each in data["train"]]
    held_out = [each.messages for each in data["validation"] or data["test"]][:HELD_OUT_PROMPTS]
    if not prompts:
        raise TrainerError(f"{config.data}: has no prompts to train on")
    trainer = create(config, device)
    total = config.steps or max(1, round(config.epochs * len(prompts) / prompts_a_step))
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "reward_hash": hash_model_files(config.reward),
        "reference_hash": hash_model_files(config.reference or config.model),
        "lr": trainer.lr,
        "window": trainer.room + config.response_length,
        "same_tokens": trainer.same_tokens,
    }
    frozen = hash_parameters(trainer.reference)
    with Run(stage, config, facts) as run:
        state = run.open(total)
        before = trainer.judge(held_out) if held_out else None
        if state:
            trainer.load_state(state)
        train(trainer, run, prompts, prompts_a_step)
        if hash_parameters(trainer.reference) != frozen:
            raise TrainerError("the reference moved: this is a fault of the program")
        last = run.read_metrics()[-10:]
        result: dict[str, Any] = {
            "stage": stage,
            "steps": last[-1]["step"],
            "ended_by_kl": trainer.ended_by_kl,
            "episodes": last[-1]["step"] * config.batch_size,
            "score": sum(row["score"] for row in last) / len(last),
            "kl": sum(row["kl"] for row in last) / len(last),
            "kl_coef": last[-1]["kl_coef"],
        }
        samples: list[Sample] = []
        if before is not None:
            after = trainer.judge(held_out)
            result["held_out"] = compare(before, after)
            samples = to_samples(held_out, before, after)
        result["left_out"] = {**data.left_out, **trainer.encoder.cut}
        save_model(trainer.policy, trainer.tokenizer, Path(config.out) / "model")
        write_report(
            Path(config.out) / "report.html",
            title=title,
            run=run,
            curves=curves,
            result=result,
            samples=samples,
            frontier=True,
        )
        run.finish(result)
    return result


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
        if run.wants_checkpoint(step) or trainer.ended_by_kl:
            run.save_checkpoint(step, trainer.state())
        if trainer.ended_by_kl:
            return


def compare(before: Judged, after: Judged) -> dict[str, Any]:
    """The policy against where it started, on prompts that it never trained on, by the reward model."""
    wins = (after.rewards > before.rewards).float()
    wins = wins + 0.5 * (after.rewards == before.rewards).float()
    win_rate = float(wins.mean())
    return {
        "prompts": len(wins),
        "win_rate": win_rate,
        "win_rate_interval": wilson(win_rate, len(wins)),
        "score": float(after.rewards.mean()),
        "start_score": float(before.rewards.mean()),
        "kl": after.kl,
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
