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

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import default_lr
from trainer.data import Messages, read_prompts
from trainer.errors import TrainerError
from trainer.losses import (
    adapt_kl,
    gae,
    kl_estimates,
    masked_mean,
    masked_var,
    place_rewards,
    policy_loss,
    token_entropy,
    token_logprobs,
    value_loss,
    whiten,
)
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    fit_window,
    hash_parameters,
    load_policy,
    load_reward_model,
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
from trainer.runs import Run, batches, hash_model_files, linear_to_zero
from trainer.stages import PPOConfig

HELD_OUT_PROMPTS = 64
REPORTED_SAMPLES = 8
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


@dataclass(frozen=True)
class Judged:
    """Responses to some prompts, their rewards (B,), and the mean KL of a response from the reference."""

    texts: list[str]
    rewards: Tensor
    kl: float


def main(config: PPOConfig) -> dict[str, Any]:
    """Optimise the policy; the result is also in result.json."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_prompts(config.data)
    prompts = [each.messages for each in data["train"]]
    held_out = [each.messages for each in data["validation"] or data["test"]][:HELD_OUT_PROMPTS]
    if not prompts:
        raise TrainerError(f"{config.data}: has no prompts to train on")
    trainer = Trainer(config, device)
    total = config.steps or max(1, round(config.epochs * len(prompts) / config.batch_size))
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
    with Run("ppo", config, facts) as run:
        state = run.open(total)
        before = trainer.judge(held_out) if held_out else None
        if state:
            trainer.load_state(state)
        train(trainer, run, prompts)
        if hash_parameters(trainer.reference) != frozen:
            raise TrainerError("the reference moved: this is a fault of the program")
        last = run.read_metrics()[-10:]
        result: dict[str, Any] = {
            "stage": "ppo",
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
            title="PPO",
            run=run,
            curves=CURVES,
            result=result,
            samples=samples,
            frontier=True,
        )
        run.finish(result)
    return result


def train(trainer: "Trainer", run: Run, prompts: Sequence[Messages]) -> None:
    """All updates that are still to be made."""
    config = trainer.config
    if trainer.ended_by_kl:  # resumed where it had ended
        return
    for step in run.steps():
        chosen = batches(len(prompts), config.batch_size, seed=config.seed, step=step)
        figures = trainer.update([prompts[index] for index in chosen], step, run.total_steps)
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


class Trainer:
    """The four models and one update of PPO."""

    def __init__(self, config: PPOConfig, device: torch.device) -> None:
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
        start = config.reward if self.same_tokens else config.model
        self.value_model = load_reward_model(start, self.tokenizer, device, seed=config.seed)
        if not self.same_tokens:
            nn.init.zeros_(self.value_model.score.weight)
        models = [self.policy, self.reference, self.value_model]
        if self.same_tokens:
            models.append(self.reward_model)
        self.room = response_room(config.max_length, config.response_length, *models)
        self.encoder = Encoder(self.tokenizer, self.room + config.response_length)
        self.reward_encoder = Encoder(
            self.reward_tokenizer, fit_window(config.max_length, self.reward_model)
        )
        self.lr = config.lr or default_lr(3e-6, 6.9e9, count_parameters(self.policy))
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.policy.parameters()), "base_lr": self.lr},
                {
                    "params": list(self.value_model.parameters()),
                    "base_lr": config.value_lr or self.lr,
                },
            ],
            lr=self.lr,
            eps=1e-5,
        )
        self.kl_coef = config.kl_coef
        self.ended_by_kl = False
        self.stream = torch.Generator().manual_seed(config.seed)

    # --- state, for an exact resume

    def state(self) -> dict[str, Any]:
        """All that a later start needs to give the same numbers."""
        return {
            "policy": self.policy.state_dict(),
            "value_model": self.value_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kl_coef": self.kl_coef,
            "ended_by_kl": self.ended_by_kl,
            "stream": self.stream.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.policy.load_state_dict(state["policy"])
        self.value_model.load_state_dict(state["value_model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl_coef = float(state["kl_coef"])
        self.ended_by_kl = bool(state["ended_by_kl"])
        self.stream.set_state(state["stream"])

    # --- one update

    def update(self, prompts: Sequence[Messages], step: int, total: int) -> dict[str, float]:
        """Sample, score, learn; the figures of the update."""
        started = time.perf_counter()
        experience = self.collect(prompts)
        rate = linear_to_zero(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        figures = self.learn(experience)
        figures |= self.describe(experience)
        if self.config.kl_target:
            self.kl_coef = adapt_kl(
                self.kl_coef,
                figures["kl"],
                target=self.config.kl_target,
                horizon=self.config.kl_horizon,
                episodes=len(prompts),
            )
        tokens = float(experience.rollout.response_mask.sum())
        figures["tokens_per_second"] = tokens / (time.perf_counter() - started)
        figures["lr"] = self.lr * rate
        return figures

    def collect(self, prompts: Sequence[Messages]) -> Experience:
        """Steps 1 to 5 of the module's list."""
        config = self.config
        rollout = self.roll_out(prompts, self.stream)
        mask = rollout.response_mask.float()
        raw = self.score(prompts, rollout)
        scores = raw - config.missing_eos_penalty * (~rollout.ended).float()
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

    def per_micro_batch(self, rollout: Rollout, what: Any, model: Any) -> Tensor:
        """(B, T) of a function that is worked out a few rows at a time."""
        parts = torch.split(torch.arange(len(rollout.ids)), self.config.micro_batch)
        return torch.cat([what(model, rollout, rows) for rows in parts])

    def logprobs_of(self, policy: Any, rollout: Rollout, rows: Tensor) -> Tensor:
        """(b, T) log-probabilities of the sampled tokens of some rows."""
        logits = response_logits(policy, rollout.ids[rows], rollout.mask[rows], rollout.length)
        return token_logprobs(logits, rollout.response[rows], self.config.temperature)

    def values_of(self, model: Any, rollout: Rollout, rows: Tensor) -> Tensor:
        """(b, T) values of the states before each sampled token of some rows."""
        values = token_rewards(model, rollout.ids[rows], rollout.mask[rows])
        return values[:, -rollout.length - 1 : -1]

    def learn(self, experience: Experience) -> dict[str, float]:
        """Step 6 of the module's list. Figures are means over all minibatches."""
        config = self.config
        count = len(experience.scores)
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

    def describe(self, experience: Experience) -> dict[str, float]:
        """The figures of a batch of episodes, before it was learnt from."""
        mask = experience.rollout.response_mask.float()
        k1, k2, k3 = kl_estimates(experience.logprobs, experience.reference)
        kl = float((k1 * mask).sum(-1).mean())
        spread = masked_var(experience.returns, mask)
        missed = masked_var(experience.returns - experience.values, mask)
        return {
            "score": float(experience.raw_scores.mean()),
            "score_std": float(experience.raw_scores.std()) if len(mask) > 1 else 0.0,
            "non_score_reward": -self.kl_coef * kl,
            "rlhf_reward": float(experience.scores.mean()) - self.kl_coef * kl,
            "kl": kl,
            "kl_k2": float((k2 * mask).sum(-1).mean()),
            "kl_k3": float((k3 * mask).sum(-1).mean()),
            "kl_coef": self.kl_coef,
            "sequence_entropy": float(-(experience.logprobs * mask).sum(-1).mean()),
            "value_error": float(masked_mean((experience.returns - experience.values) ** 2, mask)),
            "explained_variance": float(1 - missed / spread.clamp(min=1e-8)),
            "response_length": float(mask.sum(-1).mean()),
            "ended_share": float(experience.rollout.ended.float().mean()),
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
