"""Reward models that score: one, or several as an ensemble.

An ensemble's members are runs of the reward stage with different seeds. How their rewards become one:
`mean`; `worst`, the least of them (worst-case optimisation); `uncertain`, the mean less a coefficient times
their variance (uncertainty-weighted optimisation; both Coste et al. 2023, section 3). A policy that
climbs where the members disagree gains nothing by it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.engine.distributed import Processes
from trainer.engine.forward import score_texts
from trainer.engine.models import fit_window, load_scorer
from trainer.engine.prepare import equip
from trainer.engine.responses import response_rewards
from trainer.engine.shared_prefix import Tree, plant
from trainer.engine.tokens import Encoder, load_tokenizer, same_tokens
from trainer.rl.rollout import Rollout, decode, rows_of
from trainer.settings.training import TrainingConfig


def paths_of(text: str) -> list[str]:
    """`a,b` as two paths."""
    return [part.strip() for part in text.split(",") if part.strip()]


def combine(rewards: Tensor, how: str, *, coefficient: float = 0.0) -> Tensor:
    """(N,) of (M, N) members' rewards: mean, worst, or uncertain."""
    if how == "worst":
        return rewards.min(0).values
    mean = rewards.mean(0)
    if how == "uncertain":
        return mean - coefficient * rewards.var(0, unbiased=False)
    return mean


class Scorer:
    """One frozen reward model, and how it reads what a policy says."""

    def __init__(
        self, path: str, max_length: int, policy_tokenizer: Any, device: torch.device
    ) -> None:
        self.tokenizer = load_tokenizer(path)
        self.model = load_scorer(path, self.tokenizer, device)
        self.encoder = Encoder(self.tokenizer, fit_window(max_length, self.model))
        self.same_tokens = same_tokens(policy_tokenizer, self.tokenizer)

    def equip(self, config: TrainingConfig, processes: Processes) -> None:
        """Compute as the run does."""
        equip(self.model, config, processes, learns=False, quick=True)

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, policy_tokenizer: Any, size: int
    ) -> Tensor:
        """(B,) rewards of whole responses, as the reward model was trained to read them.

        With the same tokens the sampled ids are reused, and a response that was cut gets the end token
        that all of the reward model's data had; otherwise the text is tokenised again.
        """
        if not self.same_tokens:
            pairs = list(zip(prompts, decode(policy_tokenizer, rollout), strict=True))
            found = score_texts(self.model, self.encoder, pairs, batch_size=size)
            return found.to(rollout.ids.device)
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        rows: list[Tree] = [
            (prompt, [response if ended else [*response, end]])
            for prompt, response, ended in rows_of(rollout)
        ]
        scores = rollout.ids.new_zeros(len(rows), dtype=torch.float32)
        lengths = [len(prompt) + len(response) for prompt, (response,) in rows]
        order = sorted(range(len(rows)), key=lambda index: lengths[index])
        with torch.no_grad():
            for start in range(0, len(order), size):
                some = order[start : start + size]
                forest = plant([rows[index] for index in some], self.model, pad)
                scores[some] = response_rewards(self.model, forest)
        return scores


class Scorers:
    """The members of an ensemble; usually there is one."""

    def __init__(
        self,
        paths: str,
        max_length: int,
        policy_tokenizer: Any,
        device: torch.device,
        *,
        how: str = "mean",
        coefficient: float = 0.0,
    ) -> None:
        self.members = [
            Scorer(path, max_length, policy_tokenizer, device) for path in paths_of(paths)
        ]
        self.how, self.coefficient = how, coefficient

    @property
    def first(self) -> Scorer:
        """The member that a value model starts from."""
        return self.members[0]

    def equip(self, config: TrainingConfig, processes: Processes) -> None:
        """Compute as the run does."""
        for each in self.members:
            each.equip(config, processes)

    def windows(self) -> list[Any]:
        """The models that read a rollout's own tokens."""
        return [each.model for each in self.members if each.same_tokens]

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, policy_tokenizer: Any, size: int
    ) -> tuple[Tensor, Tensor]:
        """(B,) rewards as one, and (B,) the members' standard deviation."""
        rewards = torch.stack(
            [each.score(prompts, rollout, policy_tokenizer, size) for each in self.members]
        )
        one = combine(rewards, self.how, coefficient=self.coefficient)
        return one, rewards.std(0, unbiased=False)
