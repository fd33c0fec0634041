"""PPO and RLOO as a plain loop over rows, by transformers and torch alone, in double precision.

No batches, no padding, no cache, no minds for speed, and none of the trainer's code: what the trainer does
in its own way has to come to the same numbers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from trainer.data.examples import Messages
from trainer.rl.rollout import Rollout
from trainer.settings.on_policy import OnPolicyConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.rloo import RLOOConfig

Row = tuple[list[int], list[int]]  # the tokens of a prompt and of its response
Figures = dict[str, float]


def encode(tokenizer: Any, messages: Messages, room: int) -> list[int]:
    """The prompt's BOS, and its last tokens that fit beside a response."""
    ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    return ids if len(ids) <= room else [ids[0], *ids[-(room - 1) :]]


def load(kind: Any, path: str) -> Any:
    return kind.from_pretrained(path, dtype=torch.float64).eval()


def load_scorer(path: str) -> Any:
    """A reward model that says (r - mean) / spread, once its `reward_mean` is taken off."""
    model = load(transformers.AutoModelForSequenceClassification, path)
    with torch.no_grad():
        model.score.weight /= model.config.reward_spread
    model.config.reward_mean /= model.config.reward_spread
    return model


class Plain:
    """The models of a run, its random stream, and what both stages compute."""

    def __init__(self, config: OnPolicyConfig) -> None:
        self.config = config
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(config.model)
        self.policy = load(transformers.AutoModelForCausalLM, config.model)
        self.reference = load(
            transformers.AutoModelForCausalLM, config.reference or config.model
        ).requires_grad_(False)
        paths = config.reward.split(",")
        self.rewards = [load_scorer(path) for path in paths]
        self.value = load_scorer(paths[0])
        self.heldout = load_scorer(config.heldout_reward) if config.heldout_reward else None
        ends = json.loads((Path(config.model) / "generation_config.json").read_text())
        self.ends = ends["eos_token_id"]
        self.beta = config.kl_coef
        self.stream = torch.Generator().manual_seed(config.seed)
        self.moved = {"grad_norm": self.policy}

    def optimizer(self) -> torch.optim.Optimizer:
        moved = [each for model in self.moved.values() for each in model.parameters()]
        return torch.optim.Adam(moved, lr=0.0, eps=1e-5)

    def encode(self, messages: Messages) -> list[int]:
        room = self.config.max_length - self.config.response_length
        return encode(self.tokenizer, messages, room)

    def sample(self, prompts: Sequence[Messages], stream: torch.Generator) -> list[Row]:
        draws = torch.rand((self.config.response_length, len(prompts)), generator=stream)
        return [
            (prompt, sample(self.policy, prompt, draws[:, index].tolist(), self.config.temperature,
                            self.ends, len(self.tokenizer)))
            for index, prompt in enumerate(map(self.encode, prompts))
        ]  # fmt: skip

    def logprobs(self, model: Any, row: Row) -> tuple[Tensor, Tensor]:
        """(T,) log-probabilities of the response's tokens, and (T,) entropies."""
        prompt, response = row
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        # What the tokenizer has no text for is never drawn.
        known = (logits[:, : len(self.tokenizer)] / self.config.temperature).log_softmax(-1)
        return known[range(len(response)), response], -(known.exp() * known).sum(-1)

    def read(self, scorer: Any, row: Row) -> float:
        """The reward of the response with the end that the template gives it, as transformers reads it."""
        prompt, response = row
        said = response[:-1] if self.ended(row) else response
        ids = torch.tensor([[*prompt, *said, self.tokenizer.eos_token_id]])
        with torch.no_grad():
            return float(scorer(input_ids=ids).logits[0, 0]) - scorer.config.reward_mean

    def members(self, row: Row) -> Tensor:
        """(M,) what each reward model of the ensemble gives."""
        return torch.tensor([self.read(each, row) for each in self.rewards], dtype=torch.float64)

    def score(self, row: Row) -> float:
        """Their mean, less its price where they differ."""
        rewards = self.members(row)
        price = self.config.uncertainty_coef if self.config.ensemble == "uncertain" else 0.0
        return float(rewards.mean() - price * rewards.var(correction=0))

    def ended(self, row: Row) -> bool:
        return row[1][-1] in self.ends

    def penalised(self, rows: Sequence[Row], scores: Sequence[float]) -> list[float]:
        penalty = self.config.missing_eos_penalty
        return [
            score - penalty * (not self.ended(row)) for row, score in zip(rows, scores, strict=True)
        ]

    def experience_figures(
        self, rows: Sequence[Row], scores: Sequence[float], old: list[Tensor], ref: list[Tensor]
    ) -> Figures:
        count = len(rows)
        gaps = [one - other for one, other in zip(old, ref, strict=True)]
        kl = float(sum(gap.sum() for gap in gaps)) / count
        figures = {
            "score": sum(scores) / count,
            "score_std": float(torch.tensor(scores).std()),
            "rlhf_reward": sum(self.penalised(rows, scores)) / count - self.beta * kl,
            "non_score_reward": -self.beta * kl,
            "kl": kl,
            "kl_k2": float(sum((gap**2 / 2).sum() for gap in gaps)) / count,
            "kl_k3": float(sum(((-gap).exp() - 1 + gap).sum() for gap in gaps)) / count,
            "kl_coef": self.beta,
            "sequence_entropy": -float(sum(each.sum() for each in old)) / count,
            "response_length": sum(len(response) for _, response in rows) / count,
            "ended_share": sum(map(self.ended, rows)) / count,
        }
        if self.heldout is not None:
            figures["heldout_score"] = sum(self.read(self.heldout, row) for row in rows) / count
        return figures

    def adapt(self, kl: float) -> None:
        """Ziegler et al. 2019: beta follows the KL of a response."""
        config = self.config
        if config.kl_target:
            error = max(-0.2, min(0.2, kl / config.kl_target - 1))
            self.beta *= 1 + error * config.batch_size / config.kl_horizon

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer, lr: float) -> Figures:
        """One step down the loss, each model's gradient no longer than allowed."""
        optimizer.zero_grad()
        loss.backward()
        norms = {
            name: float(torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm))
            for name, model in self.moved.items()
        }  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        return norms


def sample(
    model: Any, prompt: list[int], draws: Sequence[float], temperature: float, ends: Sequence[int],
    known: int,
) -> list[int]:  # fmt: skip
    """A response, each of its tokens by a forward pass of its own over all before it."""
    response: list[int] = []
    for draw in draws:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, -1, :known]
        reached = (logits / temperature).softmax(-1).cumsum(-1)
        response.append(int((reached <= draw * reached[-1]).sum()))
        if response[-1] in ends:
            break
    return response


def rows_in(rollout: Rollout) -> list[Row]:
    """The tokens that count, as the masks have it."""
    width = rollout.ids.shape[1] - rollout.response.shape[1]
    assert torch.equal(rollout.ids[:, width:], rollout.response)
    assert torch.equal(rollout.mask[:, width:], rollout.response_mask)
    return [
        (ids[:width][mask[:width].bool()].tolist(), ids[width:][mask[width:].bool()].tolist())
        for ids, mask in zip(rollout.ids, rollout.mask, strict=True)
    ]


def whiten(rows: list[Tensor], *, keep_mean: bool = False) -> list[Tensor]:
    """All rows' numbers with variance one and mean zero (or the mean that they had)."""
    flat = torch.cat(rows)
    mean, scale = flat.mean(), (flat.var(correction=0) + 1e-8).sqrt()
    return [(row - mean) / scale + (mean if keep_mean else 0.0) for row in rows]


class PlainPPO(Plain):
    """PPO with a value model."""

    config: PPOConfig

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        self.moved["value_grad_norm"] = self.value
        self.adam = self.optimizer()

    def values(self, row: Row) -> Tensor:
        """(T,) what the head says of the state before each of the response's tokens."""
        prompt, response = row
        states = self.value.base_model(input_ids=torch.tensor([prompt + response]))
        before = states.last_hidden_state[0, len(prompt) - 1 : -1]
        values: Tensor = self.value.score(before)[:, 0] - self.value.config.reward_mean
        return values

    def update(self, prompts: Sequence[Messages], lr: float) -> tuple[list[Row], Figures]:
        config = self.config
        rows = self.sample(prompts, self.stream)
        scores = [self.score(row) for row in rows]
        with torch.no_grad():
            old = [self.logprobs(self.policy, row)[0] for row in rows]
            ref = [self.logprobs(self.reference, row)[0] for row in rows]
            old_values = [self.values(row) for row in rows]
        rewards = [-self.beta * (one - other) for one, other in zip(old, ref, strict=True)]
        for row, score in enumerate(self.penalised(rows, scores)):
            rewards[row][-1] += score
        if config.whiten_rewards:
            rewards = whiten(rewards, keep_mean=True)
        advantages, returns = [], []
        for reward, value in zip(rewards, old_values, strict=True):
            advantage = torch.zeros_like(reward)
            after, later = 0.0, 0.0  # the value and the advantage of what comes next
            for t in reversed(range(len(reward))):
                delta = float(reward[t]) + config.gamma * after - float(value[t])
                later = delta + config.gamma * config.lam * later
                advantage[t], after = later, float(value[t])
            advantages.append(advantage)
            returns.append(advantage + value)
        missed = torch.cat(returns) - torch.cat(old_values)
        figures = self.experience_figures(rows, scores, old, ref) | {
            "lr": lr,
            "reward_uncertainty": sum(float(self.members(row).std(correction=0)) for row in rows)
            / len(rows),
            "value_error": float(missed.square().mean()),
            "explained_variance": 1
            - float(missed.var(correction=0) / torch.cat(returns).var(correction=0)),
        }
        advantages = whiten(advantages)
        steps = []
        for _ in range(config.ppo_epochs):
            order = torch.randperm(len(rows), generator=self.stream).tolist()
            size = len(rows) // config.minibatches
            for chosen in (order[start : start + size] for start in range(0, len(rows), size)):
                each = [
                    self.losses(rows[i], old[i], advantages[i], old_values[i], returns[i])
                    for i in chosen
                ]
                means = {name: torch.cat([some[name] for some in each]).mean() for name in each[0]}
                ratios = torch.cat([some["ratio"] for some in each])
                means["ratio_var"] = ratios.var(correction=0)
                loss = means["policy_loss"] + means["value_loss"]
                norms = self.step(loss, self.adam, lr)
                means["loss"] = means["policy_loss"] + config.value_coef * means["value_loss"]
                steps.append({name: float(mean.detach()) for name, mean in means.items()} | norms)
        self.adapt(figures["kl"])
        return rows, figures | {
            name: sum(some[name] for some in steps) / len(steps) for name in steps[0]
        }

    def losses(
        self, row: Row, old: Tensor, advantages: Tensor, old_values: Tensor, returns: Tensor
    ) -> dict[str, Tensor]:
        """Each token's losses, and its part of the figures."""
        config = self.config
        logprobs, entropies = self.logprobs(self.policy, row)
        ratio = (logprobs - old).exp()
        plain = -advantages * ratio
        clipped = -advantages * ratio.clamp(1 - config.clip, 1 + config.clip)
        values = self.values(row)
        near = values.clamp(old_values - config.value_clip, old_values + config.value_clip)
        far_off, near_off = (values - returns) ** 2, (near - returns) ** 2
        return {
            "policy_loss": torch.maximum(plain, clipped),
            "value_loss": torch.maximum(far_off, near_off) / 2,
            "clip_share": (clipped > plain).double(),
            "value_clip_share": (near_off > far_off).double(),
            "approx_kl": (logprobs - old) ** 2 / 2,
            "ratio": ratio,
            "entropy": entropies,
        }


class PlainRLOO(Plain):
    """RLOO."""

    config: RLOOConfig

    def __init__(self, config: RLOOConfig) -> None:
        super().__init__(config)
        self.adam = self.optimizer()

    def update(self, prompts: Sequence[Messages], lr: float) -> tuple[list[Row], Figures]:
        count = self.config.responses
        rows = self.sample([each for each in prompts for _ in range(count)], self.stream)
        scores = [self.score(row) for row in rows]
        with torch.no_grad():
            old = [self.logprobs(self.policy, row)[0] for row in rows]
            ref = [self.logprobs(self.reference, row)[0] for row in rows]
        rewards = [
            score - self.beta * float((one - other).sum())
            for score, one, other in zip(self.penalised(rows, scores), old, ref, strict=True)
        ]
        groups = [rewards[start : start + count] for start in range(0, len(rows), count)]
        loss, entropies = torch.zeros((), dtype=torch.float64), []
        for index, row in enumerate(rows):
            group, own = groups[index // count], rewards[index]
            advantage = own - (sum(group) - own) / (count - 1)
            logprobs, entropy = self.logprobs(self.policy, row)
            loss = loss - advantage * logprobs.sum() / len(rows)
            entropies.append(entropy.detach())
        figures = self.experience_figures(rows, scores, old, ref) | {
            "lr": lr,
            "loss": float(loss.detach()),
            "entropy": float(torch.cat(entropies).mean()),
            "group_std": sum(float(torch.tensor(each).std()) for each in groups) / len(groups),
        }
        figures |= self.step(loss, self.adam, lr)
        self.adapt(figures["kl"])
        return rows, figures
