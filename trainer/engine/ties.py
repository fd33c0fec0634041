"""How ties enter a reward model's loss: by Breslow's rule or by Davidson-Luce, and which of them.

`auto` measures it on the run's own data before training: both rules fit a linear reward on states of the
model that the run starts from (the state that its head will read, through a fixed random projection) to
some of the training rankings, and are judged by the likelihood of validation rankings, ties included.
Davidson-Luce is taken unless Breslow's rule is better by more than two standard errors. That costs one
forward pass over at most MEASURED rankings of each split, and a moment of convex fitting.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trainer.data.examples import Ranking
from trainer.data.values import JsonObject, as_json
from trainer.engine.distributed import Processes, wants_shards
from trainer.engine.protocols import RewardModel
from trainer.engine.responses import states_at
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.errors import UsageError
from trainer.formulas.ties import (
    LARGEST_TIE,
    Rankings,
    compare_rules,
    fit_log_nu,
    largest_tie,
)
from trainer.settings.reward import RewardConfig

# Rankings of each split that `auto` looks at, and numbers that it keeps of a state.
MEASURED = 256
# With fewer validation rankings than this, chance would decide.
FEWEST = 30
KEPT_FEATURES = 32
# Rankings from which the ties' parameters get their first values.
STARTED_FROM = 2000


class Example(Protocol):
    """A ranking as tokens."""

    @property
    def ranking(self) -> Ranking:
        """The ranking."""

    @property
    def groups(self) -> list[PromptResponses]:
        """Its prompt and candidates."""

    @property
    def size(self) -> int:
        """All of its tokens."""


@dataclass(frozen=True)
class TieRule:
    """How ties enter the loss, and why so."""

    name: str  # breslow or davidson
    why: str
    log_nu: Tensor = field(default_factory=lambda: torch.empty(0))  # (D - 1,) to start from
    comparison: JsonObject | None = None

    @property
    def largest(self) -> int | None:
        """The largest tie that Davidson-Luce knows; None with Breslow's rule."""
        return len(self.log_nu) + 1 if self.name == "davidson" else None

    def describe(self, nu: Sequence[float] | None) -> JsonObject:
        """How ties entered the loss, for the result; `nu` as it was fitted."""
        found: JsonObject = {"rule": self.name, "why": self.why}
        if nu is not None:
            found["nu"] = nu
        if self.comparison is not None:
            found["measured"] = self.comparison
        return found


def log_nu_of(models: Sequence[RewardModel]) -> Tensor | None:
    """(D - 1,) the logs of the ties' parameters that models were saved with; of several, their mean.

    None where one of them has none, or has them for ties of another size.
    """
    saved = [getattr(each.config, "tie_nu", None) for each in models]
    known = [each for each in saved if each]
    if len(known) < len(models) or len(set(map(len, known))) > 1:
        return None
    return torch.tensor(known, dtype=torch.float64).log().mean(0)


def choose_rule(
    config: RewardConfig,
    model: RewardModel,
    train: Sequence[Example],
    held_out: Sequence[Example],
    pad: int,
    processes: Processes,
) -> TieRule:
    """The rule of the run. Raises UsageError where --ties davidson cannot be."""
    largest = largest_tie([each.ranking.ranks for each in train])
    if largest == 1:
        return TieRule("breslow", "no training ranking has a tie: both rules are Plackett-Luce")
    if config.ties == "breslow":
        return TieRule("breslow", "asked for")
    if largest > LARGEST_TIE:
        if config.ties == "davidson":
            raise UsageError(
                f"--ties davidson: a ranking ties {largest} candidates, and at most {LARGEST_TIE} "
                "are modelled; use --ties breslow"
            )
        return TieRule("breslow", f"a ranking ties {largest} candidates, more than {LARGEST_TIE}")
    if config.margin_scale:
        return TieRule("breslow", "--margin-scale goes with it alone")
    comparison, why = None, "asked for"
    if config.ties == "auto":
        comparison, why = measure(config, model, train, held_out, pad, largest, processes)
        # Of processes that differ in a last digit, one must not go another way.
        if processes.any(comparison is not None and is_breslow_better(comparison)):
            return TieRule("breslow", why, comparison=comparison)
    some = train[:STARTED_FROM]
    start = as_tensors(some, [torch.zeros(len(each.ranking.ranks), 0) for each in some])
    log_nu = fit_log_nu(start, torch.zeros(start.ranks.shape), largest=largest)
    return TieRule("davidson", why, log_nu=log_nu.float(), comparison=comparison)


def is_breslow_better(comparison: JsonObject) -> bool:
    """Whether Breslow's rule has the likelier held-out rankings, by more than two standard errors."""
    difference, error = comparison["difference"], comparison["standard_error"]
    assert isinstance(difference, float)
    assert isinstance(error, float)
    return difference < -2 * error


def measure(
    config: RewardConfig,
    model: RewardModel,
    train: Sequence[Example],
    held_out: Sequence[Example],
    pad: int,
    largest: int,
    processes: Processes,
) -> tuple[JsonObject | None, str]:
    """Both rules on the run's own data, and what that says."""
    unmeasured = (
        "not measured (too few validation rankings): the rule that did best in bench/ties.py"
    )
    if (
        wants_shards(config.shard) and processes.count > 1
    ):  # the model waits on the CPU, whole, to be divided
        return None, unmeasured.replace("too few validation rankings", "--shard")
    if len(held_out) < FEWEST:
        return None, unmeasured
    splits = [some[:MEASURED] for some in (train, held_out)]
    # The rarest sizes of ties may all lie behind the first rankings.
    if largest_tie([each.ranking.ranks for each in splits[0]]) == 1:
        return None, unmeasured
    states = [read_states(model, some, pad) for some in splits]
    every = torch.cat(states[0])
    mean, spread = every.mean(0), every.std(0).clamp(min=1e-6)
    tensors = [
        as_tensors(some, [(each - mean) / spread for each in own])
        for some, own in zip(splits, states, strict=True)
    ]
    comparison = compare_rules(tensors[0], tensors[1], largest=largest)
    if comparison is None:
        return None, unmeasured
    figures = as_json(comparison)
    better = "breslow" if is_breslow_better(figures) else "davidson"
    return figures, f"measured on validation rankings: {better}"


def read_states(model: RewardModel, examples: Sequence[Example], pad: int) -> list[Tensor]:
    """(K, F) of each ranking's candidates: what the head will read, projected."""
    width = int(model.config.get_text_config().hidden_size)
    stream = torch.Generator().manual_seed(0)
    projection = torch.randn(width, min(width, KEPT_FEATURES), generator=stream) / math.sqrt(width)
    states: list[Tensor] = [torch.empty(0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: examples[index].size)
    with torch.no_grad():
        for start in range(0, len(order), 16):
            some = order[start : start + 16]
            groups = [group for index in some for group in examples[index].groups]
            batch = build_batch(groups, model, pad)
            flat = states_at(model, batch, batch.ends).float().cpu() @ projection
            counts = [len(examples[index].ranking.ranks) for index in some]
            for index, own in zip(some, torch.split(flat, counts), strict=True):
                states[index] = own
    return states


def as_tensors(examples: Sequence[Example], features: Sequence[Tensor]) -> Rankings:
    """Rankings and (K, F) features of each, padded."""
    most = max(len(each) for each in features)
    padded = torch.zeros(len(features), most, features[0].shape[-1], dtype=torch.float64)
    ranks, mask = torch.full((len(features), most), most + 1.0), torch.zeros(len(features), most)
    for row, (example, own) in enumerate(zip(examples, features, strict=True)):
        padded[row, : len(own)] = own.double()
        ranks[row, : len(own)] = torch.tensor(example.ranking.ranks, dtype=torch.float32)
        mask[row, : len(own)] = 1
    weights = torch.tensor([each.ranking.weight for each in examples], dtype=torch.float64)
    return Rankings(padded, ranks, mask, weights)
