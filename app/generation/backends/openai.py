"""A server that speaks the OpenAI-compatible chat API: vLLM, TGI, llama.cpp, Ollama and others.

Requests go out side by side; batching is the server's craft.
"""

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import httpx

from app.generation.backends.base import (
    Choice,
    GenerationError,
    Outcome,
    Question,
    Request,
    Response,
)
from app.generation.backends.transport import GuardedTransport
from app.inputs import MOST_INT4, storable
from app.policies.reach import KEY_PATTERN, KEY_PREFIX, NotReachable

# How many requests a worker has open at one server: enough to fill a batch, few enough to be polite.
CONCURRENT = 32
# A server's own words, as far as they help on a page.
EXCERPT = 300
TOP_LOGPROBS = 20  # the most that the API gives
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class OpenAIBackend:
    """A policy behind a server."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_variable: str | None,
        timeout: float,
        private_hosts: Sequence[str] = (),
    ) -> None:
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.model = model
        self.api_key_variable = api_key_variable
        self.timeout = timeout
        self.private_hosts = private_hosts
        self._key = ""

    async def generate(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        """A response or a reason for each request."""
        return await self._side_by_side(self._ask, requests)

    async def choose(self, questions: Sequence[Question]) -> Sequence[Choice]:
        """The labels' chances by the server's log-probabilities; of a server without them, its word."""
        return await self._side_by_side(self._choose, questions)

    async def _side_by_side(
        self,
        ask: Callable[[httpx.AsyncClient, Asked], Awaitable[Answer | GenerationError]],
        wanted: Sequence[Asked],
    ) -> list[Answer | GenerationError]:
        headers = {}
        if self.api_key_variable:
            try:
                self._key = read_key(self.api_key_variable)
            except GenerationError as missing:
                return [missing] * len(wanted)
            headers["Authorization"] = f"Bearer {self._key}"
        limit = asyncio.Semaphore(CONCURRENT)
        # A redirect is an answer like any other: the key and the prompts go to this server or nowhere.
        async with httpx.AsyncClient(
            headers=headers,
            timeout=self.timeout,
            transport=GuardedTransport(self.private_hosts),
            follow_redirects=False,
        ) as client:

            async def one(each: Asked) -> Answer | GenerationError:
                async with limit:
                    return await ask(client, each)

            return await asyncio.gather(*(one(each) for each in wanted))

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Outcome:
        body = {
            "model": self.model,
            "messages": list(request.messages),
            "n": 1,
            "seed": request.seed % 2**31,  # several servers take no larger one
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_new_tokens,
        }
        answer = await self._post(client, body)
        return answer if isinstance(answer, GenerationError) else self._read(answer)

    async def _choose(self, client: httpx.AsyncClient, question: Question) -> Choice:
        body = {
            "model": self.model,
            "messages": list(question.messages),
            "n": 1,
            "temperature": 0.0,
            "max_tokens": 4,  # a label, behind whatever mark a model puts before it
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        }
        answer = await self._post(client, body)
        if isinstance(answer, GenerationError):
            return answer
        outcome = self._read(answer)
        if isinstance(outcome, GenerationError):
            return outcome
        chances = read_chances(answer, question.labels)
        return chances or read_label(outcome.text, question.labels)

    async def _post(
        self, client: httpx.AsyncClient, body: dict[str, object]
    ) -> httpx.Response | GenerationError:
        try:
            answer = await client.post(self.url, json=body)
        except httpx.TimeoutException:
            return GenerationError(f"{self.url} did not answer within {self.timeout:g} s")
        except NotReachable as error:
            return GenerationError(f"{self.url} is not called: {error}")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            return GenerationError(f"{self.url} cannot be reached: {reason}")
        if answer.status_code != 200:
            return GenerationError(
                f"{self.url} answered {answer.status_code} for the model {self.model!r}: "
                f"{self._excerpt(answer) or 'nothing more'}",
                retry_after=_retry_after(answer),
            )
        return answer

    def _excerpt(self, answer: httpx.Response) -> str:
        # Servers like to repeat a key that they refuse, and what they say is shown on a page.
        text = answer.text.replace(self._key, "…") if self._key else answer.text
        return text[:EXCERPT].strip()

    def _read(self, answer: httpx.Response) -> Outcome:
        try:
            body = answer.json()
            choice = body["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return GenerationError(
                f"{self.url} answered something else than a chat completion: "
                f"{self._excerpt(answer)}"
            )
        if not isinstance(text, str):
            return GenerationError(f"{self.url} answered without any text")
        usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
        return Response(
            text=storable(text),
            finish_reason=storable(str(choice.get("finish_reason") or "stop"))[:32],
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )


def read_key(variable: str) -> str:
    """The key in this variable. Raises GenerationError where it is missing or none of ours."""
    if not re.fullmatch(KEY_PATTERN, variable):
        raise GenerationError(f"{variable} does not begin with {KEY_PREFIX}, so it is not sent")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise GenerationError(
            f"the worker has no environment variable {variable} with the server's key"
        )
    if not key.isascii() or not key.isprintable():
        raise GenerationError(f"the key in {variable} has characters that no header can carry")
    return key


def read_chances(answer: httpx.Response, labels: Sequence[str]) -> tuple[float, ...] | None:
    """The labels' shares of the first token's likeliest ones; None where the server tells none."""
    try:
        likeliest = answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        logprobs = [(str(each["token"]).strip(), float(each["logprob"])) for each in likeliest]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    chances = [
        sum(math.exp(value) for token, value in logprobs if token == label) for label in labels
    ]
    total = sum(chances)
    return tuple(chance / total for chance in chances) if total > 0 else None


def read_label(text: str, labels: Sequence[str]) -> Choice:
    """All of the chance for the label that the answer begins with."""
    first = re.match(r"\W*(\w+)", text)
    if first is None or first[1] not in labels:
        return GenerationError(f"the answer is none of {', '.join(labels)}: {text[:80]!r}")
    return tuple(float(label == first[1]) for label in labels)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= MOST_INT4 else None


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return min(float(answer.headers["retry-after"]), 3600.0)
    except (KeyError, ValueError):
        return None
