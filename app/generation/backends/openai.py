"""Any server that speaks the OpenAI-compatible chat API: vLLM, TGI, llama.cpp, Ollama and others.

Requests go out side by side; batching is the server's craft.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import httpx

from app.generation.backends.base import GenerationError, Outcome, Request, Response

# How many requests a worker has open at one server: enough to fill a batch, few enough to be polite.
CONCURRENT = 32
# A server's own words, as far as they help on a page.
EXCERPT = 300


class OpenAIBackend:
    """A policy behind a server."""

    def __init__(
        self, base_url: str, model: str, *, api_key_variable: str | None, timeout: float
    ) -> None:
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.model = model
        self.api_key_variable = api_key_variable
        self.timeout = timeout

    async def generate(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        """A response or a reason for each request."""
        headers = {}
        if self.api_key_variable:
            key = os.environ.get(self.api_key_variable)
            if not key:
                missing = GenerationError(
                    f"the worker has no environment variable {self.api_key_variable} "
                    "with the server's key"
                )
                return [missing] * len(requests)
            headers["Authorization"] = f"Bearer {key}"
        limit = asyncio.Semaphore(CONCURRENT)
        async with httpx.AsyncClient(headers=headers, timeout=self.timeout) as client:

            async def one(request: Request) -> Outcome:
                async with limit:
                    return await self._ask(client, request)

            return await asyncio.gather(*(one(request) for request in requests))

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
        try:
            answer = await client.post(self.url, json=body)
        except httpx.TimeoutException:
            return GenerationError(f"{self.url} did not answer within {self.timeout:g} s")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            return GenerationError(f"{self.url} cannot be reached: {reason}")
        if answer.status_code != 200:
            return GenerationError(
                f"{self.url} answered {answer.status_code} for the model {self.model!r}: "
                f"{answer.text[:EXCERPT].strip() or 'nothing more'}",
                retry_after=_retry_after(answer),
            )
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> Outcome:
        try:
            body: Any = answer.json()
            choice = body["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return GenerationError(
                f"{self.url} answered something else than a chat completion: "
                f"{answer.text[:EXCERPT]}"
            )
        if not isinstance(text, str):
            return GenerationError(f"{self.url} answered without any text")
        usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
        return Response(
            text=text.replace("\x00", ""),
            finish_reason=str(choice.get("finish_reason") or "stop")[:32],
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return min(float(answer.headers["retry-after"]), 3600.0)
    except (KeyError, ValueError):
        return None
