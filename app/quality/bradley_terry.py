"""Bradley-Terry strengths of policies, from wins in pairs.

P(i beats j) = exp(s_i) / (exp(s_i) + exp(s_j)) (Bradley & Terry 1952, eq. 1); the strengths s are the
maximum of the likelihood, found by Newton's method, with mean 0. Ties carry no information about who is
stronger in this model and are left out; they are counted beside it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# What each pair that ever met is given, in wins for either side, when somebody never lost (or won):
# the likelihood then has no maximum (Ford 1957). A tenth of a win hardly moves anybody else.
PRIOR_WINS = 0.1


@dataclass(frozen=True)
class Fit:
    """Log strengths, mean 0, of N policies."""

    strengths: Floats  # (N,)
    # Whether the prior was needed, because the wins alone have no finite answer.
    regularised: bool


def is_connected(wins: Floats) -> bool:
    """Whether everybody can be reached from everybody along wins: then the maximum is finite.

    `wins` (N, N): how often the row's policy beat the column's.
    """
    count = len(wins)
    reach = (wins > 0) | np.eye(count, dtype=bool)
    for _ in range(max(1, int(np.ceil(np.log2(max(count, 2)))))):
        reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
    return bool(reach.all())


def fit(wins: Floats) -> Fit:
    """The strengths that make these wins likeliest. `wins` (N, N), with an empty diagonal."""
    count = len(wins)
    if count == 0:
        return Fit(np.zeros(0), False)
    regularised = not is_connected(wins)
    if regularised:
        met = (wins + wins.T) > 0
        wins = wins + PRIOR_WINS * (met if met.any() else ~np.eye(count, dtype=bool))
    games = wins + wins.T
    total = wins.sum(axis=1)
    strengths = np.zeros(count)
    for _ in range(100):
        chance = 1.0 / (1.0 + np.exp(strengths[None, :] - strengths[:, None]))  # (N, N)
        gradient = total - (games * chance).sum(axis=1)
        weight = games * chance * (1 - chance)
        information = np.diag(weight.sum(axis=1)) - weight
        # Only differences matter; the pseudo-inverse leaves the mean where it is.
        step = np.linalg.pinv(information, hermitian=True) @ gradient
        strengths = strengths + np.clip(step, -2.0, 2.0)
        strengths -= strengths.mean()
        if np.abs(step).max() < 1e-10:
            break
    return Fit(strengths, regularised)


def count_wins(
    winner: Indices, loser: Indices, count: int, weights: Floats | None = None
) -> Floats:
    """(N, N) wins from index arrays of winners and losers, each pair weighing `weights`."""
    wins = np.zeros((count, count))
    np.add.at(wins, (winner, loser), 1.0 if weights is None else weights)
    return wins


def bootstrap(
    winner: Indices,
    loser: Indices,
    ranking: Indices,
    count: int,
    *,
    samples: int = 200,
    seed: int = 0,
) -> Floats:
    """(samples, N) strengths from resampled rankings.

    Rankings are drawn, not pairs: the pairs of one ranking are one judgement and stand together.
    """
    source = np.random.default_rng(seed)
    rankings = int(ranking.max()) + 1 if len(ranking) else 0
    drawn = np.zeros((samples, count))
    for sample in range(samples):
        times = source.multinomial(rankings, np.full(rankings, 1 / max(rankings, 1)))
        weights = times[ranking].astype(np.float64)
        drawn[sample] = fit(count_wins(winner, loser, count, weights)).strengths
    return drawn
