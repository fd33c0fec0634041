"""The trainer on a GPU: first whether it is exact there, then how fast, in nine minutes at most.

    python bench/gpu.py [--out gpu.json] [--minutes 9] [--sizes 0.1B,1B] [--device cuda|cpu]

Prints one JSON object, and writes it to --out whenever there is something new: what was found stays found
when a part fails, hangs or the machine is taken away. Each part is a process of its own, with a share of
the time that is left; where it ends otherwise than well, its last figures are kept beside the reason, and
the next part goes on.

  identities   first steps on the card against the CPU, in float32 and bfloat16: losses, gradients, and what
               is known before (DPO's ln 2, PPO's ratio of 1 and KL of 0)
  speed        SFT, the reward model, DPO and PPO at 0.1 and 1 thousand million random weights: tokens a
               second, model FLOP utilisation, peak memory

Model FLOPs are those of Chowdhery et al. 2022 (PaLM), appendix B, as `forward_flops` in bench/gpu_parts.py
counts them; utilisation is their share of the card's dense bfloat16 peak, by the table there, and "unknown"
for a card that is not in it. Nothing is downloaded.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
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
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parent
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


def work_on(job: dict[str, Any]) -> None:
    """What a part's own process does."""
    from trainer.settings.environment import set_thread_variables

    set_thread_variables()
    from bench import gpu_parts

    if job["part"] == "machine":
        import torch

        gpu_parts.tell_line(gpu_parts.describe(torch.device(job["device"])))
    else:
        gpu_parts.run_part(job, gpu_parts.tell_line)


def main(argv: Sequence[str]) -> int:
    """Run it. The exit code is 1 where a part did not end well."""
    if argv[:1] == ["--part"]:
        work_on(json.loads(argv[1]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write what was found here, as it comes")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sizes", default="0.1B,1B", help="of tiny, 0.1B and 1B, by comma")
    parser.add_argument("--exact-size", default="0.1B", help="for the identities")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    wanted = parser.parse_args(argv)
    results: dict[str, Any] = {
        "flops": "Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T a token trained on",
        "machine": {}, "parts": {},
    }  # fmt: skip
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:

        def command(part: Part, seconds: float) -> list[str]:
            job = {
                "part": part.name, "size": part.size, "folder": folder, "device": wanted.device,
                # Its own start is part of its time, and so is its end.
                "dtype": wanted.dtype, "seconds": 0.7 * seconds - 5,
            }  # fmt: skip
            return [sys.executable, str(HERE / "gpu.py"), "--part", json.dumps(job)]

        def record(part: Part, found: dict[str, Any]) -> None:
            name = "machine" if part.name == "machine" else f"{part.name} {part.size}"
            (results if name == "machine" else results["parts"])[name] = found
            results["seconds"] = time.monotonic() - started
            write_results(wanted.out, results)

        machine = Part("machine", "", 0.5)
        sizes = [each.strip() for each in wanted.sizes.split(",") if each.strip()]
        parts = [machine, *plan(sizes, wanted.exact_size)]
        try:
            run_parts(parts, command, wanted.minutes, record)
        finally:
            print(json.dumps(results), flush=True)
    return 1 if any("error" in each for each in results["parts"].values()) else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
