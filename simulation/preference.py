"""A rater whose noisy preference is known, speaking to the real HTTP API.

It likes one measurable trait of a story (`trait`), and errs: of each pair of candidates it sees, it takes
the worse one for the better with probability `noise`, independently (so a ranking of K is what a person
with that error rate in pairs would hand in: the candidates ordered by how many of their noisy pairwise
votes they win). Only tests and benches know it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import httpx

Trait = Callable[[str], float]


def liveliness(text: str) -> float:
    """How lively a story is: the share of its sentences that end in an exclamation mark."""
    ends = [text.count(mark) for mark in "!.?"]
    return ends[0] / max(1, sum(ends))


def rank_with_noise(
    values: Sequence[float], *, noise: float, source: random.Random
) -> tuple[list[int], int, int]:
    """Ranks (1 best) of candidates with these true values, and how the pairs came out.

    Returns the ranks, the number of pairs with different values, and of these how many the ranks get
    right: the best that any reward model can do on this rater's comparisons is the share of the latter.
    """
    wins = [0.0] * len(values)
    for a, b in combinations(range(len(values)), 2):
        if values[a] == values[b]:
            better = source.choice((a, b))
        else:
            better = a if values[a] > values[b] else b
            if source.random() < noise:
                better = a + b - better
        wins[better] += 1
    ranks = [1 + sum(other > own for other in wins) for own in wins]
    judged = right = 0
    for a, b in combinations(range(len(values)), 2):
        if ranks[a] == ranks[b]:
            continue
        judged += 1
        if values[a] == values[b]:
            right += source.random() < 0.5  # nobody can do better than a coin
        else:
            right += (values[a] > values[b]) == (ranks[a] < ranks[b])
    return ranks, judged, right


@dataclass
class SimulatedRater:
    """One rater with a token of their own."""

    client: httpx.Client
    token: str
    trait: Trait
    noise: float
    seed: int
    judged: int = 0
    right: int = 0
    rated: int = 0

    def __post_init__(self) -> None:
        self.source = random.Random(self.seed)
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def rate_next(self, slug: str) -> bool:
        """Lease a task and rank it; False when there is none."""
        leased = self.client.post(f"/api/v1/projects/{slug}/assignments", headers=self.headers)
        if leased.status_code == 204:
            return False
        leased.raise_for_status()
        task: dict[str, Any] = leased.json()
        candidates = task["candidates"]
        values = [self.trait(candidate["text"]) for candidate in candidates]
        ranks, judged, right = rank_with_noise(values, noise=self.noise, source=self.source)
        answer = self.client.put(
            f"/api/v1/assignments/{task['id']}/ranking",
            headers=self.headers,
            json={
                "ranks": {
                    candidate["id"]: rank for candidate, rank in zip(candidates, ranks, strict=True)
                }
            },
        )
        answer.raise_for_status()
        self.judged += judged
        self.right += right
        self.rated += 1
        return True
