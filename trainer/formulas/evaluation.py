"""How well rewards agree with people: over all pairs, slice by slice, and beside what people reach.

A pair is two candidates that a rater put in order; its gap is the reward of the preferred one less that of
the other. Pairs of one ranking are not independent, so intervals are somewhat too narrow.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.examples import Ranking

# Slices are told for the raters and policies that most pairs are of.
MOST_SLICES = 20
BINS = 10


@dataclass(frozen=True)
class Pair:
    """Two candidates, the preferred one first."""

    gap: float
    rater: str
    texts: tuple[str, str]
    policies: tuple[str, str]
    prompt: str


def strict_pairs(rankings: Sequence[Ranking], rewards: Sequence[Tensor]) -> list[Pair]:
    """The pairs of rankings whose (K,) rewards are given, without ties."""
    return [
        pair_of(ranking, values, better, worse)
        for ranking, values in zip(rankings, rewards, strict=True)
        for better, worse in ordered(ranking.ranks)
    ]


def ordered(ranks: Sequence[float]) -> Iterable[tuple[int, int]]:
    """(better, worse) places of all that are not equal; less is better."""
    for one, other in combinations(range(len(ranks)), 2):
        if ranks[one] != ranks[other]:
            yield (one, other) if ranks[one] < ranks[other] else (other, one)


def pair_of(ranking: Ranking, rewards: Tensor, better: int, worse: int) -> Pair:
    """The pair of these two candidates."""
    names = [str(name or "unknown") for name in ranking.policies] or ["unknown"] * len(rewards)
    return Pair(
        gap=float(rewards[better] - rewards[worse]),
        rater=ranking.rater or "unknown",
        texts=(ranking.candidates[better], ranking.candidates[worse]),
        policies=(names[better], names[worse]),
        prompt="\x1e".join(each["content"] for each in ranking.messages),
    )


def gaps_of(pairs: Iterable[Pair]) -> Tensor:
    """(N,) gaps."""
    return torch.tensor([pair.gap for pair in pairs], dtype=torch.float64)


def figures_of(gaps: Tensor) -> dict[str, Any]:
    """{pairs, accuracy, log_loss, calibration_error, accuracy_interval} of (N,) gaps."""
    pairs = len(gaps)
    if pairs == 0:
        return {"pairs": 0, "accuracy": None, "log_loss": None, "calibration_error": None}
    accuracy = float(right(gaps).mean())
    return {
        "pairs": pairs,
        "accuracy": accuracy,
        "log_loss": float(-nn.functional.logsigmoid(gaps).mean()),
        "calibration_error": float(calibration_error(gaps.sigmoid(), BINS)),
        "accuracy_interval": wilson(accuracy, pairs),
    }


def right(gaps: Tensor) -> Tensor:
    """(N,) 1 where the preferred one has more reward, one half where both have the same."""
    return (gaps > 0).double() + 0.5 * (gaps == 0).double()


def wilson(share: float, count: int, z: float = 1.959964) -> list[float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [(middle - spread) / scale, (middle + spread) / scale]


def slices_of(
    pairs: Sequence[Pair], rankings: Sequence[Ranking], rewards: Sequence[Tensor]
) -> dict[str, dict[str, Any]]:
    """Accuracy by rater, by pair of policies, by which of the two is longer, and by axis.

    On an axis the order is that of the scores that raters gave each candidate on it.
    """
    groups: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("rater", "policies", "length", "axis")
    }
    for pair in pairs:
        groups["rater"][pair.rater].append(pair.gap)
        groups["policies"][" / ".join(sorted(pair.policies))].append(pair.gap)
        groups["length"][length_of(pair)].append(pair.gap)
    for ranking, values in zip(rankings, rewards, strict=True):
        for axis, scores in ranking.axes.items():
            known = [place for place, score in enumerate(scores) if score is not None]
            for one, other in ordered([-float(scores[place] or 0) for place in known]):
                gap = float(values[known[one]] - values[known[other]])
                groups["axis"][axis].append(gap)
    nothing: list[set[str]] = [{"unknown"}, {"unknown / unknown"}, set()]
    return {name: summary(parts) for name, parts in groups.items() if set(parts) not in nothing}


def length_of(pair: Pair) -> str:
    """The slice of a pair by the length of its texts."""
    one, other = map(len, pair.texts)
    if one == other:
        return "same length"
    return "preferred is longer" if one > other else "preferred is shorter"


def summary(parts: dict[str, list[float]]) -> dict[str, Any]:
    """{name: {pairs, accuracy, accuracy_interval}} of the largest parts."""
    largest = sorted(parts, key=lambda name: (-len(parts[name]), name))[:MOST_SLICES]
    wanted = ("pairs", "accuracy", "accuracy_interval")
    found = {}
    for name in largest:
        figures = figures_of(torch.tensor(parts[name], dtype=torch.float64))
        found[name] = {key: figures[key] for key in wanted}
    return found


def calibration_of(gaps: Tensor) -> list[dict[str, float]]:
    """[{confidence, accuracy, pairs}] of ten bins of confidence, each pair seen from its likelier side."""
    chances = gaps.abs().sigmoid()
    place = ((chances - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    return [
        {
            "confidence": float(chances[place == index].mean()),
            "accuracy": float(right(gaps[place == index]).mean()),
            "pairs": int((place == index).sum()),
        }
        for index in range(BINS)
        if bool((place == index).any())
    ]


def length_correlation(pairs: Sequence[Pair]) -> float | None:
    """How differences of reward go with differences of length in characters, from -1 to 1.

    The correlation over both orders of every pair (so both means are 0).
    """
    gaps = gaps_of(pairs)
    lengths = torch.tensor(
        [float(len(pair.texts[0]) - len(pair.texts[1])) for pair in pairs], dtype=torch.float64
    )
    scale = (gaps.square().sum() * lengths.square().sum()).sqrt()
    return float((gaps * lengths).sum() / scale) if float(scale) > 0 else None


def human_ceiling(pairs: Sequence[Pair]) -> dict[str, Any] | None:
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
    gaps = gaps_of(pair for each in several for pair in each)
    return {
        "pairs": len(several),
        "votes": count,
        "agreement": alike / chances,
        "agreement_interval": wilson(alike / chances, chances),
        "ceiling": most / count,
        "accuracy": float(right(gaps).mean()),
    }


def calibration_error(probabilities: Tensor, bins: int = 10) -> Tensor:
    """The expected calibration error of predicted chances that the chosen one wins.

    Each pair is looked at from its likelier side: confidence max(p, 1-p), right where p > 1/2 (half
    right where p = 1/2). Equal-width bins over [1/2, 1] (Guo et al. 2017, eq. 3).
    """
    confidence = torch.maximum(probabilities, 1 - probabilities)
    right = (probabilities > 0.5).float() + 0.5 * (probabilities == 0.5).float()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    total = torch.zeros((), dtype=confidence.dtype, device=confidence.device)
    for index in range(bins):
        here = place == index
        if here.any():
            gap = (confidence[here].mean() - right[here].mean()).abs()
            total = total + gap * here.float().mean()
    return total
