"""How far raters agree, pair by pair.

The unit is one pair of candidates of one task; a rater's value is 0 (tie), 1 (the earlier candidate is
better) or 2 (the later one). Krippendorff's alpha (Krippendorff 2004, ch. 11) compares disagreement with
what chance would give: 1 is perfect, 0 is chance. Intervals resample tasks, since the pairs of a task
are not independent of each other.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

TIE, FIRST, SECOND = 0, 1, 2
# First is better < tie < second is better.
ORDINAL = [FIRST, TIE, SECOND]


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval; None where there is too little to say."""

    value: float | None
    low: float | None
    high: float | None


def pairwise_agreement(counts: Counts) -> float | None:
    """The share of pairs of raters who said the same, over all units that two or more judged.

    `counts` (units, 3): how many raters gave each value.
    """
    raters = counts.sum(axis=1)
    pairs = (raters * (raters - 1)).sum()
    if pairs == 0:
        return None
    return float((counts * (counts - 1)).sum() / pairs)


def alpha(counts: Counts, *, ordinal: bool) -> float | None:
    """Krippendorff's alpha of (units, 3) value counts; None where nothing varies."""
    import krippendorff

    judged = counts[counts.sum(axis=1) >= 2]
    if len(judged) == 0 or (judged.sum(axis=0) > 0).sum() < 2:
        return None
    columns = judged[:, ORDINAL] if ordinal else judged
    used = columns.sum(axis=0) > 0
    level: Literal["ordinal", "nominal"] = "ordinal" if ordinal else "nominal"
    return float(
        krippendorff.alpha(
            value_counts=columns[:, used],
            value_domain=list(range(int(used.sum()))),
            level_of_measurement=level,
        )
    )


def with_interval(
    counts: Counts, task: Counts, measure: str, *, samples: int = 500, seed: int = 0
) -> Figure:
    """`pairwise`, `nominal` or `ordinal` with its 95 % bootstrap interval over tasks.

    `task` (units,): the index of each unit's task, from 0.
    """

    def compute(some: Counts) -> float | None:
        if measure == "pairwise":
            return pairwise_agreement(some)
        return alpha(some, ordinal=measure == "ordinal")

    value = compute(counts)
    tasks = int(task.max()) + 1 if len(task) else 0
    if value is None or tasks < 2:
        return Figure(value, None, None)
    order = np.argsort(task, kind="stable")
    starts = np.searchsorted(task[order], np.arange(tasks + 1))
    source = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        chosen = source.integers(0, tasks, tasks)
        rows = np.concatenate([order[starts[t] : starts[t + 1]] for t in chosen])
        again = compute(counts[rows])
        if again is not None:
            drawn.append(again)
    if len(drawn) < samples / 2:
        return Figure(value, None, None)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(value, float(low), float(high))
