"""Rollouts by an inference server: a vLLM that serves the starting model takes the policy's adapters.

For sizes where sampling by the training process would be most of the time. The server is started apart
(`vllm serve MODEL --enable-lora --max-lora-rank R`, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True) and sees
the run directory. Before each batch of rollouts the adapters as they are go there under a fresh name, which
no other run has; of several processes the first publishes them. Then each prompt is one call of the
OpenAI-compatible completions API, token ids in and token ids out. Nothing of the server's numbers is used:
log-probabilities are those of the training forward pass.
"""

import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import torch

from trainer.data.values import JsonObject
from trainer.engine.distributed import Processes
from trainer.engine.lora import save_adapters
from trainer.engine.protocols import Policy
from trainer.errors import TrainerError
from trainer.rl.rollout import Row

CALLS_AT_ONCE = 64
SECONDS = 600.0


class RolloutServer:
    """A server that speaks for the policy."""

    def __init__(self, url: str, folder: Path, processes: Processes, *, prefix: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.folder, self.processes = folder, processes
        # A server refuses a name that it has: that of a run in a folder of the same name, or of an earlier
        # start of this one.
        (start, *_) = processes.all_gather([uuid.uuid4().hex[:12]])
        self.prefix = f"{prefix}-{start}"
        self.served: str | None = None
        self._published = 0
        self._client = httpx.Client(
            base_url=self.url,
            timeout=SECONDS,
            transport=httpx.HTTPTransport(retries=3),
            limits=httpx.Limits(max_connections=CALLS_AT_ONCE),
        )

    def publish(self, policy: Policy) -> None:
        """Let the server speak with the adapters as they are now, and forget those before. All processes
        ask; the first publishes, and the others wait for it."""
        before = self.served
        self._published += 1
        name = f"{self.prefix}-{self._published}"
        place = self.folder / name
        writes = self.processes.first
        save_adapters(policy, place, writes=writes)
        if writes:
            adapter: JsonObject = {"lora_name": name, "lora_path": str(place.resolve())}
            self._post("/v1/load_lora_adapter", adapter)
        self.processes.barrier()
        self.served = name
        if writes and before is not None:
            self._forget(before)

    def close(self) -> None:
        """Forget the adapters that were published last. What the server says to that ends no run."""
        if self.processes.first and self.served is not None:
            with suppress(TrainerError):
                self._forget(self.served)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self, name: str) -> None:
        self._post("/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        end: Sequence[int],
    ) -> list[Row]:
        """One response to each prompt of token ids, each with a seed of its own."""
        assert self.served is not None
        common: JsonObject = {
            "model": self.served,
            "max_tokens": length,
            "temperature": temperature,
            # Nothing of the distribution is cut off: the update needs the one that was drawn from.
            "top_p": 1.0,
            "top_k": -1,
            "return_token_ids": True,
            "stop_token_ids": [*end],
            "skip_special_tokens": False,
        }

        def ask(prompt: Sequence[int], seed: int) -> Row:
            body = self._post(
                "/v1/completions", {**common, "prompt": list(prompt), "seed": seed}
            ).json()
            try:
                (choice,) = body["choices"]
                tokens, reason = (
                    [int(each) for each in choice["token_ids"]],
                    choice["finish_reason"],
                )
            except (KeyError, TypeError, ValueError):
                raise TrainerError(
                    f"{self.url}: its completions have no token_ids; a vLLM of 0.10.2 or later has"
                ) from None
            if reason == "stop" and (not tokens or tokens[-1] not in end):
                tokens.append(end[0])
            tokens = tokens[:length]
            return list(prompt), tokens, bool(tokens) and tokens[-1] in end

        with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
            return list(pool.map(ask, prompts, seeds))

    def _post(self, path: str, body: JsonObject) -> httpx.Response:
        try:
            answer = self._client.post(path, json=body)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            said = error.response.text[:300]
            raise TrainerError(f"{self.url}{path}: {error.response.status_code}: {said}") from None
        except httpx.HTTPError as error:
            raise TrainerError(f"{self.url}{path}: {error}") from None
        return answer


def seeds_of(stream: torch.Generator, count: int) -> list[int]:
    """Seeds for the server, from the run's own stream."""
    seeds: list[int] = torch.randint(2**31, (count,), generator=stream).tolist()
    return seeds
