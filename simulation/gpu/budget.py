"""Parts that share a limited time, each a process of its own, so that none costs the others theirs."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
LINES_KEPT = 5
# Written and printed before the time is up, whatever the last part does.
SPARE_SECONDS = 8.0
LEAST_SECONDS = 10.0


class Part(NamedTuple):
    """A part, its size, and its share of the time."""

    name: str
    size: str
    weight: float


def plan(sizes: Sequence[str], exact_size: str) -> list[Part]:
    """All parts, what matters most first."""
    parts = [Part("models", exact_size, 1), Part("identities", exact_size, 3)]
    for size in sizes:
        slow = 1.0 if size != "1B" else 2.0
        if size != exact_size:
            parts.append(Part("models", size, slow))
        parts += [Part(stage, size, slow) for stage in ("ppo", "sft", "reward", "dpo")]
    return parts


def run_parts(
    parts: Sequence[Part],
    command: Callable[[Part, float], Sequence[str]],
    minutes: float,
    record: Callable[[Part, dict[str, Any]], None],
) -> None:
    """Every part within its share of the time that is left; `record` is told what it has so far."""
    end = time.monotonic() + 60 * minutes - SPARE_SECONDS
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        share = left * part.weight / sum(each.weight for each in parts[number:])
        if left < LEAST_SECONDS:
            record(part, {"error": "no time was left"})
            continue
        # What a part does not need is the next one's; none gets less than makes sense.
        seconds = min(left, max(share, LEAST_SECONDS))
        watch(command(part, seconds), seconds, partial(record, part))


def watch(
    command: Sequence[str], seconds: float, record: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run a command that prints JSON lines: its last line, and why it ended where that was not well."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: queue.Queue[str | None] = queue.Queue()
    complaints: list[str | None] = []
    readers = [
        threading.Thread(target=_read, args=(process.stdout, said.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, complaints.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    found: dict[str, Any] = {}
    why = None
    try:
        while (
            line := said.get(timeout=max(0.0, started + seconds - time.monotonic()))
        ) is not None:
            try:
                found = json.loads(line)
            except json.JSONDecodeError:  # a library's word
                continue
            record(found)
    except queue.Empty:
        why = f"ended after {seconds:.0f} seconds"
    finally:
        if why is not None or sys.exc_info()[0] is not None:
            process.kill()
        code = process.wait()
    for reader in readers:
        reader.join()
    if why is None and code:
        kept = [each.strip() for each in complaints if each and each.strip()][-LINES_KEPT:]
        why = f"ended with {code}: {' | '.join(kept)}"
    found["wall_seconds"] = time.monotonic() - started
    if why is not None:
        found["error"] = why
    record(found)
    return found


def _read(stream: IO[str], take: Callable[[str | None], object]) -> None:
    with stream:
        for line in stream:
            take(line)
    take(None)


def write_results(out: Path | None, results: dict[str, Any]) -> None:
    """Under another name, then renamed: there is never half a file."""
    if out is not None:
        fresh = out.with_name(f".{out.name}.new")
        fresh.write_text(json.dumps(results, indent=2) + "\n")
        fresh.rename(out)
