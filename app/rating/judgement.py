"""What a ranking must be, and what it says: pure functions over ranks, scores and pairs."""

import uuid
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Generic, NamedTuple, TypeVar

from app.errors import Conflict, InvalidInput
from app.rating.schemas import KnownFlag, RankingIn, Scale, hash_questions

# Candidates by their ids, as UUIDs in the database or as text in an export.
Key = TypeVar("Key")

LETTERS = "ABCDEFGHI"
# A flag that every project has: even the best response is not acceptable ("both bad").
NONE_IS_GOOD = "none-is-good"


def check_ranking(
    given: RankingIn,
    candidates: Sequence[uuid.UUID],
    axes: Sequence[Scale],
    flags: Sequence[KnownFlag],
) -> None:
    """Hold a ranking against its task and project. Raises InvalidInput naming the first fault."""
    check_ranks(given.ranks, candidates)
    if given.strength is not None and (len(candidates) != 2 or len(set(given.ranks.values())) == 1):
        raise InvalidInput("is only for one of two candidates over the other", field="strength")
    scales = {axis["name"]: axis for axis in axes}
    for name, score in given.axes.items():
        if name not in scales:
            raise InvalidInput(f"the project has no axis {name!r}", field=f"axes.{name}")
        check_score(score, scales[name], candidates)
    known = {flag["name"] for flag in flags} | {NONE_IS_GOOD}
    for flag in given.flags:
        if flag not in known:
            raise InvalidInput(f"the project has no flag {flag!r}", field="flags")


def check_seen(
    seen: Sequence[uuid.UUID] | None, candidates: Sequence[uuid.UUID], *, required: bool
) -> None:
    """Hold what was on the screen against the task. Raises InvalidInput.

    Where nobody knows (a page without scripts, a program), nothing is asked, and nothing is stored.
    """
    if seen is None:
        return
    for candidate in seen:
        if candidate not in candidates:
            raise InvalidInput("is not a candidate of this task", field=f"seen.{candidate}")
    unseen = [letter for letter, each in zip(LETTERS, candidates, strict=False) if each not in seen]
    if required and unseen:
        raise InvalidInput(
            f"these responses have not been seen to their end: {', '.join(unseen)}", field="seen"
        )


def check_score(
    score: float | Mapping[uuid.UUID, float],
    scale: Scale,
    candidates: Sequence[uuid.UUID],
) -> None:
    """One score of the best response, or one for any of them, on the axis's scale. Raises InvalidInput."""
    name = f"axes.{scale['name']}"
    each = scale.get("per") == "response"
    if each != isinstance(score, Mapping):
        wanted = (
            "one score for each response, by its id" if each else "one score, of the best response"
        )
        raise InvalidInput(f"takes {wanted}", field=name)
    scores = (
        {f"{name}.{one}": value for one, value in score.items()}
        if isinstance(score, Mapping)
        else {name: score}
    )
    for candidate in score if isinstance(score, Mapping) else ():
        if candidate not in candidates:
            raise InvalidInput("is not a candidate of this task", field=f"{name}.{candidate}")
    for where, value in scores.items():
        if not scale["min"] <= value <= scale["max"]:
            raise InvalidInput(
                f"is {value:g}; the scale goes from {scale['min']} to {scale['max']}", field=where
            )


def check_ranks(ranks: Mapping[uuid.UUID, int], candidates: Sequence[uuid.UUID]) -> None:
    """Every candidate once, in whole numbers 1 to K, the best of them 1. Raises InvalidInput."""
    for candidate in ranks:
        if candidate not in candidates:
            raise InvalidInput("is not a candidate of this task", field=f"ranks.{candidate}")
    for candidate in candidates:
        if candidate not in ranks:
            raise InvalidInput("has no rank", field=f"ranks.{candidate}")
    for candidate, rank in ranks.items():
        if not 1 <= rank <= len(candidates):
            raise InvalidInput(
                f"the rank {rank} is not between 1 and {len(candidates)}",
                field=f"ranks.{candidate}",
            )
    if min(ranks.values()) != 1:
        raise InvalidInput("no candidate has rank 1, the best", field="ranks")


def check_screen(
    given: RankingIn, axes: Sequence[Scale], flags: Sequence[KnownFlag], newest_version: int
) -> None:
    """Hold what the sender says was on the screen against the project.

    Raises Conflict where its questions are others by now: a score on an old scale would be stored as one on
    the new. Guidelines may have a newer version: the ranking is of the one that was read.
    """
    if given.questions is not None and given.questions != hash_questions(axes, flags):
        raise Conflict(
            "The project's questions have changed since this task was shown; look at it again and submit "
            "it once more",
            field="questions",
        )
    if given.guideline_version is not None and given.guideline_version > newest_version:
        raise InvalidInput(
            f"the newest guidelines are version {newest_version}", field="guideline_version"
        )


class Pair(NamedTuple, Generic[Key]):
    """Two candidates of a ranking. The margin is 0 for a tie: then the earlier one stands as better."""

    better: Key
    worse: Key
    margin: int


def close_gaps(ranks: Mapping[Key, int]) -> dict[Key, int]:
    """The same order in dense ranks: 1, 3, 1 is 1, 2, 1."""
    used = sorted(set(ranks.values()))
    return {each: used.index(rank) + 1 for each, rank in ranks.items()}


def compare(
    ranks: Mapping[Key, int], strength: int | None = None, *, keep_gaps: bool = False
) -> list[Pair[Key]]:
    """All K(K-1)/2 pairs of a ranking, in its mapping's order: what is stored, and what is exported.

    The margin is the strength of a preference where one was given, else by how many dense ranks the two
    are apart: 1, 3, 1 says no more than 1, 2, 1, wherever it came from. With `keep_gaps` it is by how many
    of the ranks as they were given, for senders whose gaps mean something.
    """
    pairs = []
    places = ranks if keep_gaps else close_gaps(ranks)
    for first, second in combinations(ranks, 2):
        better, worse = (first, second) if ranks[first] <= ranks[second] else (second, first)
        apart = places[worse] - places[better]
        pairs.append(Pair(better, worse, strength or apart if apart else 0))
    return pairs


def count_right(ranks: Mapping[str, int], gold_ranks: Mapping[str, int]) -> tuple[float, int]:
    """(pairs that the ranks order as the gold ranks do, pairs that these order); a tie is half right."""
    right, judged = 0.0, 0
    for one, other in combinations(gold_ranks, 2):
        gold = gold_ranks[one] - gold_ranks[other]
        own = ranks[one] - ranks[other]
        if gold:
            judged += 1
            right += 0.5 if own == 0 else float((own > 0) == (gold > 0))
    return right, judged
