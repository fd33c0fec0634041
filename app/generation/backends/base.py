"""What every back end takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One sample that is wanted: a conversation, how to sample, and the seed to sample with."""

    messages: Sequence[dict[str, str]]
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Response:
    """One sample. `finish_reason` is `stop` (the model ended) or `length` (the limit did)."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


class GenerationError(Exception):
    """A sample that could not be had, in words for the progress page.

    `retry_after`: the seconds that the server asked us to wait, where it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


Outcome = Response | GenerationError


@dataclass(frozen=True)
class Question:
    """One choice that is wanted: a conversation whose answer begins with one of the labels."""

    messages: Sequence[dict[str, str]]
    labels: Sequence[str]


# The chance of each label, adding up to 1, or why there is none.
Choice = tuple[float, ...] | GenerationError


class Backend(Protocol):
    """A policy that can be asked."""

    async def choose(self, questions: Sequence[Question]) -> Sequence[Choice]:
        """How likely each label is as the answer's first word. Raises nothing of its own."""
        ...

    async def generate(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        """A response or a reason for each request, in their order. Raises nothing of its own."""
        ...
