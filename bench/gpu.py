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

Model FLOPs are those of Chowdhery et al. 2022 (PaLM), appendix B, as `forward_flops` in
simulation/gpu/sizes.py counts them; utilisation is their share of the card's dense bfloat16 peak, by the
table there, and "unknown" for a card that is not in it. Nothing is downloaded.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulation.gpu.budget import Part, plan, run_parts, write_results


def tell(found: dict[str, Any]) -> None:
    """A line for whoever started this."""
    print(json.dumps(found), flush=True)


def work_on(job: dict[str, Any]) -> None:
    """What a part's own process does."""
    from trainer.settings.environment import set_thread_variables

    set_thread_variables()
    from simulation.gpu import parts

    if job["part"] == "machine":
        import torch

        tell(parts.describe(torch.device(job["device"])))
    else:
        parts.run_part(job, tell)


def main(argv: Sequence[str]) -> int:
    """Run it. The exit code is 1 where a part did not end well."""
    if argv[:1] == ["--part"]:
        work_on(json.loads(argv[1]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write what was found here, as it comes")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sizes", default="0.1B,1B", help="of tiny, small, 0.1B and 1B, by comma")
    parser.add_argument("--exact-size", default="small", help="for the identities")
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
            return [sys.executable, str(Path(__file__).resolve()), "--part", json.dumps(job)]

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
