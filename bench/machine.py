"""What the machine and single processes have computed; a line for whoever waits."""

import os
import sys
import time

from simulation.served import children, read_bytes


def cpu_seconds(pid: int) -> float:
    """What a process, its children, and those of them that have ended, have computed so far (Linux)."""
    stat = read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not stat:
        return 0.0
    own = sum(int(ticks) for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children(pid))


def machine_cpu_seconds() -> float:
    """What the whole machine has computed since it started, all its cores together (Linux)."""
    ticks = [int(each) for each in read_bytes("/proc/stat").split(b"\n", 1)[0].split()[1:8]]
    idle = sum(ticks[3:5])  # idle and waiting for a disk
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(until: float, *, cores: float = 0.2, seconds: float = 3) -> None:
    """Until the machine has next to nothing to do for some seconds, or the moment (monotonic) is past."""
    while time.monotonic() < until:
        before = machine_cpu_seconds()
        time.sleep(seconds)
        if machine_cpu_seconds() - before < cores * seconds:
            return


def tell(words: str) -> None:
    """A line for whoever waits."""
    print(words, file=sys.stderr, flush=True)
