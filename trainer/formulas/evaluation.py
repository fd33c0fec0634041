"""How well rewards agree with people: over all pairs, slice by slice, and beside what people reach.

A pair is two candidates that a rater put in order; its margin is the reward of the preferred one less
that of the other. Pairs of one ranking are not independent, so intervals are somewhat too narrow.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn

from trainer.data.examples import Ranking
from trainer.formulas.losses import davidson_luce
from trainer.formulas.ties import pair_chances

# Slices are reported for the raters and policies that most pairs are of.
MOST_SLICES = 20
BINS = 10


@dataclass(frozen=True)
class Pair:
    """Two candidates, the preferred one first."""

    margin: float
    # What the margin says: the log-odds of this order, in a ranking of all its candidates.
    log_odds: float
    rater: str
    texts: tuple[str, str]
    policies: tuple[str, str]
    prompt: str


def strict_pairs(
    rankings: Sequence[Ranking], rewards: Sequence[Tensor], log_nu: Tensor | None = None
) -> list[Pair]:
    """The pairs of rankings whose (K,) rewards are given, without ties.

    Without ties' parameters the log-odds of a pair are its margin (Bradley-Terry). So they are with them
    where two candidates were ranked; among more, a tie with a third one lessens them a little.
    """
    odds = log_odds_of(rewards, log_nu)
    return [
        pair_of(ranking, values, better, worse, float(own[better, worse]))
        for ranking, values, own in zip(rankings, rewards, odds, strict=True)
        for better, worse in ordered(ranking.ranks)
    ]


def log_odds_of(rewards: Sequence[Tensor], log_nu: Tensor | None) -> list[Tensor]:
    """(K, K) log-odds that one candidate (row) is put before another (column), not tied with it."""
    margins = [each[:, None] - each for each in rewards]
    if log_nu is None:
        return margins
    return [
        margin if chances is None else to_log_odds(chances)
        for margin, chances in zip(margins, pair_chances(rewards, log_nu), strict=True)
    ]


def to_log_odds(chances: Tensor) -> Tensor:
    """(K, K) of the chances of both orders."""
    logs = chances.clamp(min=1e-300).log()
    return logs - logs.T


def ordered(ranks: Sequence[float]) -> Iterable[tuple[int, int]]:
    """(better, worse) indices of all that are not equal; less is better."""
    for one, other in combinations(range(len(ranks)), 2):
        if ranks[one] != ranks[other]:
            yield (one, other) if ranks[one] < ranks[other] else (other, one)


def pair_of(ranking: Ranking, rewards: Tensor, better: int, worse: int, log_odds: float) -> Pair:
    """The pair of these two candidates."""
    names = [str(name or "unknown") for name in ranking.policies] or ["unknown"] * len(rewards)
    return Pair(
        margin=float(rewards[better] - rewards[worse]),
        log_odds=log_odds,
        rater=ranking.rater or "unknown",
        texts=(ranking.candidates[better], ranking.candidates[worse]),
        policies=(names[better], names[worse]),
        prompt="\x1e".join(each["content"] for each in ranking.messages),
    )


def margins_of(pairs: Iterable[Pair]) -> Tensor:
    """(N,) margins."""
    return torch.tensor([pair.margin for pair in pairs], dtype=torch.float64)


def odds_of(pairs: Iterable[Pair]) -> Tensor:
    """(N,) log-odds."""
    return torch.tensor([pair.log_odds for pair in pairs], dtype=torch.float64)


class PairFigures(TypedDict):
    """How well margins agree with people; None where there are no pairs."""

    pairs: int
    accuracy: float | None
    log_loss: float | None
    calibration_error: float | None
    # The 95 % Wilson score interval of the accuracy, as if pairs were independent.
    accuracy_interval: NotRequired[list[float]]


class SliceFigures(TypedDict):
    """The same of a part of the pairs."""

    pairs: int
    accuracy: float | None
    accuracy_interval: list[float]


Slices = dict[str, SliceFigures]


class CalibrationBin(TypedDict):
    """Pairs of about the same confidence, and how often they are right."""

    confidence: float
    accuracy: float
    pairs: int


class HumanFigures(TypedDict):
    """What people reach among themselves; see `human_ceiling`."""

    pairs: int
    votes: int
    agreement: float
    agreement_interval: list[float]
    ceiling: float
    accuracy: float


class TieFigures(TypedDict):
    """How well the chances of ties, and of whole rankings, agree with people."""

    pairs: int  # tied or not
    tied: float  # their share that people tied
    tied_predicted: float
    calibration_error: float  # of the predicted chances of a tie
    rankings: int
    log_loss: float | None  # nats a ranking, divided by K - 1
    larger_ties: (
        int  # rankings with a tie larger than any that was trained on: they have no likelihood
    )


class RankingFigures(PairFigures):
    """The figures of pairs, and of rankings: how rewards go with length, with people, by slice."""

    calibration: list[CalibrationBin]
    length_correlation: NotRequired[float | None]
    human: NotRequired[HumanFigures | None]
    slices: NotRequired[dict[str, Slices]]
    ties: NotRequired[TieFigures]


def ranking_figures(
    rankings: Sequence[Ranking], rewards: Sequence[Tensor], log_nu: Tensor | None = None
) -> RankingFigures:
    """The figures of rankings whose (K,) rewards are given, over their strict pairs.

    With the ties' parameters that go with the rewards, log loss and calibration are those of the chances
    that these give each order, and where people tied anything, ties are judged too.
    """
    pairs = strict_pairs(rankings, rewards, log_nu)
    odds = odds_of(pairs)
    figures = figures_of(odds)
    if not pairs:
        return cast(RankingFigures, {**figures, "calibration": []})
    found = RankingFigures(
        pairs=len(pairs),
        accuracy=figures["accuracy"],
        log_loss=figures["log_loss"],
        calibration_error=figures["calibration_error"],
        accuracy_interval=figures["accuracy_interval"],
        length_correlation=length_correlation(pairs),
        human=human_ceiling(pairs),
        calibration=calibration_of(odds),
        slices=slices_of(pairs, rankings, rewards),
    )
    if log_nu is not None and any(len(set(each.ranks)) < len(each.ranks) for each in rankings):
        found["ties"] = tie_figures(rankings, rewards, log_nu)
    return found


def tie_figures(
    rankings: Sequence[Ranking], rewards: Sequence[Tensor], log_nu: Tensor
) -> TieFigures:
    """The figures of rankings with ties whose (K,) rewards are given."""
    losses = torch.cat(
        [
            davidson_luce(
                own.double()[None],
                torch.tensor([ranking.ranks]),
                torch.ones(1, len(own), dtype=torch.float64),
                log_nu.double(),
            )
            for ranking, own in zip(rankings, rewards, strict=True)
        ]
    )
    known = losses.isfinite()
    predicted, tied = [], []
    for ranking, chances in zip(rankings, pair_chances(rewards, log_nu), strict=True):
        if chances is None:
            continue
        for one, other in combinations(range(len(ranking.ranks)), 2):
            predicted.append(1 - float(chances[one, other] + chances[other, one]))
            tied.append(float(ranking.ranks[one] == ranking.ranks[other]))
    said, was = torch.tensor(predicted).double(), torch.tensor(tied).double()
    return {
        "pairs": len(was),
        "tied": float(was.mean()),
        "tied_predicted": float(said.mean()),
        "calibration_error": share_error(said, was),
        "rankings": int(known.sum()),
        "log_loss": float(losses[known].mean()) if bool(known.any()) else None,
        "larger_ties": int((~known).sum()),
    }


def share_error(chances: Tensor, happened: Tensor) -> float:
    """How far chances are from how often it happened, over ten bins of them, weighted by size."""
    bins = (chances * BINS).long().clamp(0, BINS - 1)
    return sum(
        float((chances[bins == index].sum() - happened[bins == index].sum()).abs())
        for index in range(BINS)
    ) / max(len(chances), 1)


def figures_of(margins: Tensor) -> PairFigures:
    """The figures of (N,) margins."""
    pairs = len(margins)
    if pairs == 0:
        return {"pairs": 0, "accuracy": None, "log_loss": None, "calibration_error": None}
    accuracy = float(right(margins).mean())
    return {
        "pairs": pairs,
        "accuracy": accuracy,
        "log_loss": float(-nn.functional.logsigmoid(margins).mean()),
        "calibration_error": float(calibration_error(margins.sigmoid(), BINS)),
        "accuracy_interval": wilson(accuracy, pairs),
    }


def right(margins: Tensor) -> Tensor:
    """(N,) 1 where the preferred one has more reward, one half where both have the same."""
    return (margins > 0).double() + 0.5 * (margins == 0).double()


def win_shares(own: Tensor, other: Tensor) -> Tensor:
    """(N,) 1 where the own reward is the greater, one half where both are the same, else 0."""
    return (own > other).float() + 0.5 * (own == other).float()


def wilson(share: float, count: int, z: float = 1.959964) -> list[float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [(middle - half) / scale, (middle + half) / scale]


def slices_of(
    pairs: Sequence[Pair], rankings: Sequence[Ranking], rewards: Sequence[Tensor]
) -> dict[str, Slices]:
    """Accuracy by rater, by pair of policies, by which of the two is longer, and by axis.

    On an axis the order is that of the scores that raters gave each candidate on it.
    """
    groups: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("rater", "policies", "length", "axis")
    }
    for pair in pairs:
        groups["rater"][pair.rater].append(pair.margin)
        groups["policies"][" / ".join(sorted(pair.policies))].append(pair.margin)
        groups["length"][length_of(pair)].append(pair.margin)
    for ranking, values in zip(rankings, rewards, strict=True):
        for axis, scores in ranking.axes.items():
            known = [index for index, score in enumerate(scores) if score is not None]
            for one, other in ordered([-float(scores[index] or 0) for index in known]):
                margin = float(values[known[one]] - values[known[other]])
                groups["axis"][axis].append(margin)
    nothing: list[set[str]] = [{"unknown"}, {"unknown / unknown"}, set()]
    return {name: summary(parts) for name, parts in groups.items() if set(parts) not in nothing}


def length_of(pair: Pair) -> str:
    """The slice of a pair by the length of its texts."""
    one, other = map(len, pair.texts)
    if one == other:
        return "same length"
    return "preferred is longer" if one > other else "preferred is shorter"


def summary(parts: dict[str, list[float]]) -> Slices:
    """The figures of the largest parts, by name."""
    largest = sorted(parts, key=lambda name: (-len(parts[name]), name))[:MOST_SLICES]
    slices: Slices = {}
    for name in largest:
        figures = figures_of(torch.tensor(parts[name], dtype=torch.float64))
        slices[name] = SliceFigures(
            pairs=figures["pairs"],
            accuracy=figures["accuracy"],
            accuracy_interval=figures["accuracy_interval"],
        )
    return slices


def calibration_of(margins: Tensor) -> list[CalibrationBin]:
    """Ten bins of confidence, each pair seen from its likelier side."""
    chances = margins.abs().sigmoid()
    bins = ((chances - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    return [
        CalibrationBin(
            confidence=float(chances[bins == index].mean()),
            accuracy=float(right(margins[bins == index]).mean()),
            pairs=int((bins == index).sum()),
        )
        for index in range(BINS)
        if bool((bins == index).any())
    ]


def length_correlation(pairs: Sequence[Pair]) -> float | None:
    """How differences of reward go with differences of length in characters, from -1 to 1.

    The correlation over both orders of every pair (so both means are 0).
    """
    margins = margins_of(pairs)
    lengths = torch.tensor(
        [float(len(pair.texts[0]) - len(pair.texts[1])) for pair in pairs], dtype=torch.float64
    )
    scale = (margins.square().sum() * lengths.square().sum()).sqrt()
    return float((margins * lengths).sum() / scale) if float(scale) > 0 else None


def human_ceiling(pairs: Sequence[Pair]) -> HumanFigures | None:
    """What people reach on the pairs that several of them judged; None where there are none.

    `agreement`: the chance that two raters of a pair order it alike; `ceiling`: the share of votes that a
    judge can agree with at best, saying what the majority of each pair says (on few votes a pair, this is
    more than anybody can reach who has not seen them); `accuracy`: the rewards' own on the same votes.
    """
    votes: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        one, other = sorted(pair.texts)
        votes[pair.prompt, one, other].append(pair)
    several = [each for each in votes.values() if len({pair.rater for pair in each}) > 1]
    if not several:
        return None
    alike = chances = most = count = 0
    for each in several:
        tally = Counter(pair.texts[0] for pair in each)
        total = sum(tally.values())
        alike += sum(n * (n - 1) // 2 for n in tally.values())
        chances += total * (total - 1) // 2
        most += max(tally.values())
        count += total
    margins = margins_of(pair for each in several for pair in each)
    return {
        "pairs": len(several),
        "votes": count,
        "agreement": alike / chances,
        "agreement_interval": wilson(alike / chances, chances),
        "ceiling": most / count,
        "accuracy": float(right(margins).mean()),
    }


def calibration_error(probabilities: Tensor, bins: int = 10) -> Tensor:
    """The expected calibration error of predicted chances that the chosen one wins.

    Each pair is looked at from its likelier side: confidence max(p, 1-p), right where p > 1/2 (half
    right where p = 1/2). Equal-width bins over [1/2, 1] (Guo et al. 2017, eq. 3).
    """
    confidence = torch.maximum(probabilities, 1 - probabilities)
    right = (probabilities > 0.5).float() + 0.5 * (probabilities == 0.5).float()
    indices = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    total = torch.zeros((), dtype=confidence.dtype, device=confidence.device)
    for index in range(bins):
        here = indices == index
        if here.any():
            margin = (confidence[here].mean() - right[here].mean()).abs()
            total = total + margin * here.float().mean()
    return total
