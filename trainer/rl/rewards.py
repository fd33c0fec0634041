"""Reward models that score: one, or several as an ensemble.

An ensemble's members are runs of the reward stage with different seeds. How their rewards become one:
`mean`; `worst`, the least of them (worst-case optimisation); `uncertain`, the mean less a coefficient times
their variance (uncertainty-weighted optimisation; both Coste et al. 2023, section 3). A policy that moves
to where the members disagree gains nothing by it.

Rewards are normalised before anything is made of them: mean 0 (InstructGPT: on demonstrations) and unit
spread (Ziegler et al. 2019), by what the reward stage saved with a model, or else by samples of the policy
that the run starts from. A nat of KL then costs the same share of a reward's spread with any reward model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data.examples import Messages
from trainer.engine.distributed import Processes
from trainer.engine.forward import score_texts
from trainer.engine.models import fit_window, load_frozen_reward_model
from trainer.engine.prepare import prepare_model
from trainer.engine.protocols import RewardModel, Tokenizer
from trainer.engine.responses import response_rewards
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.engine.tokens import (
    PROMPT_CUT,
    Encoder,
    continues_prompts,
    load_tokenizer,
    same_tokens,
)
from trainer.rl.rollout import Rollout, decode, rows_of
from trainer.settings.on_policy import OnPolicyConfig


def paths_of(text: str) -> list[str]:
    """`a,b` as two paths."""
    return [part.strip() for part in text.split(",") if part.strip()]


def combine(rewards: Tensor, method: str, *, coefficient: float = 0.0) -> Tensor:
    """(N,) of (M, N) members' rewards: mean, worst, or uncertain."""
    if method == "worst":
        return rewards.min(0).values
    mean = rewards.mean(0)
    if method == "uncertain":
        return mean - coefficient * rewards.var(0, unbiased=False)
    return mean


class RewardReader:
    """One frozen reward model that computes as the run does, and how it reads what a policy writes."""

    def __init__(
        self, path: str, config: OnPolicyConfig, policy_tokenizer: Tokenizer, processes: Processes
    ) -> None:
        self.path = path
        self.tokenizer = load_tokenizer(path)
        device = processes.loading_device(config.shard)
        self.model = load_frozen_reward_model(path, self.tokenizer, device)
        prepare_model(self.model, config, processes, trainable=False, onednn=True)
        window = fit_window(config.max_length, self.model)
        self.encoder = Encoder(self.tokenizer, window, reading=True)
        self.same_tokens = same_tokens(policy_tokenizer, self.tokenizer)
        self.cut_responses = 0
        # A policy may answer to what the finished answers that were judged had not before them.
        self.reuses_ids = self.same_tokens and continues_prompts(self.tokenizer)
        # The spread that rewards are divided by; the mean is taken off where the model is read.
        saved = getattr(self.model.config, "reward_spread", None)
        self.spread = float(saved) if saved and config.normalise_rewards else 1.0
        self.needs_scale = config.normalise_rewards and not saved
        self.scaled_by = "saved with the model" if saved else "nothing"
        if not config.normalise_rewards:
            self.scaled_by = "its mean alone (--no-normalise-rewards)"

    @property
    def scale(self) -> tuple[float, float]:
        """The mean that is taken off, and the spread that rewards are divided by."""
        return float(getattr(self.model.config, "reward_mean", 0.0)), self.spread

    def take_scale(self, mean: float, spread: float, scaled_by: str) -> None:
        """Subtract this mean and divide by this spread from now on."""
        self.model.config.reward_mean, self.spread = mean, spread
        self.scaled_by, self.needs_scale = scaled_by, False

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, policy_tokenizer: Tokenizer, size: int
    ) -> Tensor:
        """(B,) normalised rewards of whole responses, read as the reward model was trained to read them.

        With the same tokens, and where finished answers stand behind what opens one, the sampled ids are
        reused, and a response that was cut or ended otherwise gets the end token that all of the reward
        model's data had; else the text is tokenised again.
        """
        if not self.reuses_ids:
            pairs = list(zip(prompts, decode(policy_tokenizer, rollout), strict=True))
            before = self.encoder.cut.get(PROMPT_CUT, 0)
            rewards = score_texts(self.model, self.encoder, pairs, batch_size=size)
            self.cut_responses += self.encoder.cut.get(PROMPT_CUT, 0) - before
            return rewards.to(rollout.ids.device) / self.spread
        end, pad = self.encoder.end, self.tokenizer.pad_token_id
        rows: list[PromptResponses] = [
            (prompt, [[*(response[:-1] if ended else response), end]])
            for prompt, response, ended in rows_of(rollout)
        ]
        scores = rollout.ids.new_zeros(len(rows), dtype=torch.float32)
        lengths = [len(prompt) + len(response) for prompt, (response,) in rows]
        order = sorted(range(len(rows)), key=lambda index: lengths[index])
        with torch.no_grad():
            for start in range(0, len(order), size):
                some = order[start : start + size]
                batch = build_batch([rows[index] for index in some], self.model, pad)
                scores[some] = response_rewards(self.model, batch)
        return scores / self.spread


class RewardEnsemble:
    """The members of an ensemble; usually there is one."""

    def __init__(
        self,
        paths: str,
        config: OnPolicyConfig,
        policy_tokenizer: Tokenizer,
        processes: Processes,
        *,
        method: str = "mean",
        coefficient: float = 0.0,
    ) -> None:
        self.members = [
            RewardReader(path, config, policy_tokenizer, processes) for path in paths_of(paths)
        ]
        self.method, self.coefficient = method, coefficient

    @property
    def first(self) -> RewardReader:
        """The member that a value model starts from."""
        return self.members[0]

    def readers(self) -> list[RewardModel]:
        """The models that read a rollout's own tokens."""
        return [each.model for each in self.members if each.same_tokens]

    def own_encoders(self) -> list[Encoder]:
        """How those read that do not."""
        return [each.encoder for each in self.members if not each.same_tokens]

    @property
    def cut_responses(self) -> int:
        """How many responses were scored with the start of their conversation cut, so far."""
        return sum(each.cut_responses for each in self.members)

    def score(
        self, prompts: Sequence[Messages], rollout: Rollout, policy_tokenizer: Tokenizer, size: int
    ) -> tuple[Tensor, Tensor]:
        """(B,) rewards as one, and (B,) the members' standard deviation."""
        rewards = torch.stack(
            [each.score(prompts, rollout, policy_tokenizer, size) for each in self.members]
        )
        combined = combine(rewards, self.method, coefficient=self.coefficient)
        return combined, rewards.std(0, unbiased=False)
