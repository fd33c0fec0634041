"""What a model is asked, and what its answers come to: pure functions.

A ranking of K comes of the K(K-1)/2 pairs, each asked in both orders: a model that likes whatever stands
first gains nothing for either. A candidate's score is the sum of its chances against the others (Borda's
count of soft votes); equal scores are ties. Critique and revision go as in Constitutional AI (Bai et al.
2022b, section 3): the model reads its own response, criticises it by a principle, and writes it anew.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from app.feedback.principles import Principle
from app.generation.backends.base import Question

Messages = Sequence[dict[str, str]]
LABELS = ("A", "B")
# Scores closer than this are a tie: the last digits of a model's chances mean nothing.
TIE = 1e-4


def pair_questions(
    messages: Messages, responses: Sequence[str], principle: Principle
) -> dict[tuple[int, int], Question]:
    """{(which stands as A, which as B): question} for every pair, in both orders."""
    return {
        order: Question(
            choice_messages(messages, responses[order[0]], responses[order[1]], principle), LABELS
        )
        for one, other in combinations(range(len(responses)), 2)
        for order in ((one, other), (other, one))
    }


def choice_messages(
    messages: Messages, first: str, second: str, principle: Principle
) -> list[dict[str, str]]:
    """One question between two responses."""
    text = (
        f"Here is a conversation:\n\n{transcript(messages)}\n\n"
        f"Two responses could follow.\n\nResponse A:\n{first}\n\nResponse B:\n{second}\n\n"
        f"{principle.question}\n\nAnswer with one letter, A or B."
    )
    return [{"role": "user", "content": text}]


def transcript(messages: Messages) -> str:
    """A conversation as text."""
    return "\n\n".join(f"{each['role'].capitalize()}: {each['content']}" for each in messages)


def scores_of(chances: Mapping[tuple[int, int], float], count: int) -> list[float]:
    """Each candidate's sum of chances against the others.

    chances: {(which stood as A, which as B): the chance that A was called the better}.
    """
    scores = [0.0] * count
    for (first, second), chance in chances.items():
        scores[first] += chance / 2
        scores[second] += (1 - chance) / 2
    return scores


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks, 1 is best; scores within TIE of the next better one share its rank."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    ranks = [1] * len(scores)
    for before, index in pairwise(order):
        ranks[index] = ranks[before] + (scores[before] - scores[index] > TIE)
    return ranks


def critique_messages(
    messages: Messages, response: str, principle: Principle
) -> list[dict[str, str]]:
    """Ask for a critique of a response."""
    return [
        *messages,
        {"role": "assistant", "content": response},
        {"role": "user", "content": principle.critique},
    ]


def revision_messages(
    messages: Messages, response: str, critique: str, principle: Principle
) -> list[dict[str, str]]:
    """Ask for the response anew, after its critique."""
    return [
        *critique_messages(messages, response, principle),
        {"role": "assistant", "content": critique},
        {"role": "user", "content": principle.revision},
    ]
