"""Raters without a browser: load for a served application, from a process of its own.

    python simulation/raters.py < plan.json > log.json

The plan: `{address, slug, tokens, seconds, warmup, seed}`; one rater for each token, on one kept-alive
connection, leases and ranks until the time is over. A call that is not answered, or is answered with 503,
is made again as it was, as a browser or a program would. The log has every latency in ms (a retried call's
from its first try), and every ranking that was acknowledged, as it was sent.

The client is written by hand on asyncio streams: it shares the cores with what it measures.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 30  # a call without an answer for so long is made again
LONGEST_WAIT = 1.0  # seconds between two tries
TRY_SECONDS = 120  # what stays unanswered for so long is given up, and told


@dataclass
class Log:
    """What happened to everybody."""

    lease_ms: list[float] = field(default_factory=list)
    submit_ms: list[float] = field(default_factory=list)
    # (ranking id, assignment id, ranks), each as the server or we said it.
    acknowledged: list[tuple[str, str, dict[str, int]]] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)  # Unix time of each acknowledgement
    retries: int = 0
    unavailable: int = 0  # how many of the retries followed an orderly 503
    unexpected: list[str] = field(default_factory=list)
    ran_dry: int = 0  # raters for whom nothing was left
    seconds: float = 0.0  # that the figures cover
    cpu_seconds: float = 0.0  # of this process


class Caller:
    """One HTTP/1.1 connection, opened again when it breaks."""

    def __init__(self, address: str, token: str, log: Log) -> None:
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.head = (
            f"Host: {self.host}:{self.port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nAccept: application/json\r\n"
        )
        self.log = log
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The answer, after as many tries as it takes. Raises TimeoutError when none comes."""
        request = f"{method} {path} HTTP/1.1\r\n{self.head}Content-Length: {len(body)}\r\n\r\n"
        message = request.encode() + body
        wait, give_up = 0.02, time.monotonic() + TRY_SECONDS
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, after, content = await self._try(message)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.close()
            else:
                if status != 503:
                    return status, content
                self.log.unavailable += 1
                wait = max(wait, min(after, LONGEST_WAIT))
            self.log.retries += 1
            if time.monotonic() > give_up:
                raise TimeoutError(f"{method} {path} was never answered")
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT)

    async def _try(self, message: bytes) -> tuple[int, float, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        assert self.reader is not None
        self.writer.write(message)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length, after, keep = 0, 0.0, True
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            match name.lower():
                case b"content-length":
                    length = int(value)
                case b"retry-after":
                    after = float(value)
                case b"connection":
                    keep = value.strip().lower() != b"close"
        content = await self.reader.readexactly(length) if length else b""
        if not keep:
            self.close()
        return int(head[9:12]), after, content

    def close(self) -> None:
        """Let the connection go."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def rate(caller: Caller, slug: str, source: random.Random, log: Log, times: "Times") -> None:
    """Lease and rank until the time is over."""
    lease_path = f"/api/v1/projects/{slug}/assignments"
    while (began := time.perf_counter()) < times.end:
        status, content = await caller.call("POST", lease_path)
        leased = time.perf_counter()
        if status == 204:
            log.ran_dry += 1
            return
        if status != 201:
            log.unexpected.append(f"POST: {status} {content[:200].decode(errors='replace')}")
            return
        task: dict[str, Any] = json.loads(content)
        ids = [each["id"] for each in task["candidates"]]
        ranks = {each: source.randint(1, len(ids)) for each in ids}
        ranks[source.choice(ids)] = 1
        body = json.dumps({"ranks": ranks, "seconds": 30}).encode()
        asked = time.perf_counter()
        status, content = await caller.call(
            "PUT", f"/api/v1/assignments/{task['id']}/ranking", body
        )
        done = time.perf_counter()
        if status != 200:
            log.unexpected.append(f"PUT: {status} {content[:200].decode(errors='replace')}")
            return
        log.acknowledged.append((json.loads(content)["id"], task["id"], ranks))
        log.answered_at.append(time.time())
        if began >= times.begin:
            log.lease_ms.append((leased - began) * 1000)
            log.submit_ms.append((done - asked) * 1000)


@dataclass(frozen=True)
class Times:
    """When the figures begin, and when the raters go home (perf_counter)."""

    begin: float
    end: float


async def work(plan: dict[str, Any]) -> Log:
    """Everybody at once; the log of them all."""
    log = Log()
    start = time.perf_counter()
    times = Times(start + plan["warmup"], start + plan["warmup"] + plan["seconds"])
    callers = [Caller(plan["address"], token, log) for token in plan["tokens"]]

    async def one(number: int, caller: Caller) -> None:
        await asyncio.sleep(0.02 * number)  # people do not come in at the same instant
        try:
            await rate(caller, plan["slug"], random.Random(plan["seed"] + number), log, times)
        except TimeoutError as error:
            log.unexpected.append(str(error))
        caller.close()

    await asyncio.gather(*(one(number, caller) for number, caller in enumerate(callers)))
    log.seconds = time.perf_counter() - times.begin
    log.cpu_seconds = time.process_time()
    return log


def main() -> None:
    """Read the plan, work, write the log."""
    import uvloop

    log = uvloop.run(work(json.load(sys.stdin)))
    json.dump(asdict(log), sys.stdout)


if __name__ == "__main__":
    main()
