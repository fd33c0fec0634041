"""Groups of processes that train together, started once for many runs.

What costs seconds in a distributed run of a tiny model is the start of its processes. Here they are started
as a launcher does it, meet over gloo, and then make one run after another by the trainer's own command.
"""

import contextlib
import io
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
# A run of a tiny model takes a second or two; on a machine with other work on it, some more.
PATIENCE = 60.0


class Reply(NamedTuple):
    """What one process said of a run."""

    code: int
    out: str
    err: str


class Group:
    """So many processes, each waiting for the words of the next run."""

    def __init__(self, count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.count = count
        self._replies: list[queue.Queue[str]] = []
        self._workers: list[subprocess.Popen[str]] = []
        for rank in range(count):
            environment = os.environ | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
            }  # fmt: skip
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.trainer.processes"], cwd=CHECKOUT, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert worker.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(worker.stdout, lines), daemon=True).start()
            self._workers.append(worker)
            self._replies.append(lines)

    def run(self, words: Sequence[str], patience: float = PATIENCE) -> list[Reply]:
        """What each process said of a run of `python -m trainer …`. Fails where one of them hangs."""
        return self.run_each([words] * self.count, patience)

    def run_each(self, words: Sequence[Sequence[str]], patience: float = PATIENCE) -> list[Reply]:
        """The same, with words for each process."""
        for worker, own in zip(self._workers, words, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(list(own)) + "\n")
            worker.stdin.flush()
        replies = []
        for rank, lines in enumerate(self._replies):
            try:
                replies.append(Reply(**json.loads(lines.get(timeout=patience))))
            except (queue.Empty, json.JSONDecodeError):
                self.end()
                raise AssertionError(f"process {rank} of {self.count} hangs: {words}") from None
        return replies

    def end(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()


def _read(stream: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
    stream.close()


@contextlib.contextmanager
def group_of(count: int) -> Iterator[Group]:
    """A group, for as long as this lasts."""
    group = Group(count)
    try:
        yield group
    finally:
        group.end()


def make_run(words: Sequence[str]) -> Reply:
    """What `python -m trainer …` says, in this process."""
    from trainer.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 70
    return Reply(code, out.getvalue(), err.getvalue())


def most_whole_weights(words: Sequence[str]) -> Reply:
    """How many times the weights of one model's layers were whole in this process, at the most, whenever a
    model was about to be divided in such a run."""
    import gc

    from torch import nn
    from torch.distributed.tensor import DTensor

    from trainer.engine.distributed import Processes

    divide, seen = Processes.shard, []

    def shard(self: Processes, model: Any) -> None:
        gc.collect()
        layers = max((each for each in model.modules() if isinstance(each, nn.ModuleList)), key=len)
        one = sum(each.numel() for each in layers.parameters())
        lists = {id(each): each for each in gc.get_objects() if isinstance(each, nn.ModuleList)}
        whole = {
            id(each): each.numel()
            for found in lists.values()
            for each in found.parameters()
            if not isinstance(each, DTensor)
        }
        seen.append(sum(whole.values()) / one)
        divide(self, model)

    Processes.shard = shard  # type: ignore[method-assign]
    try:
        code, _, err = make_run(words)
    finally:
        Processes.shard = divide  # type: ignore[method-assign]
    return Reply(code, json.dumps(seen), err)


def work() -> None:
    """Make the runs that stdin names, one a line; after each, nobody has said yet why it ended."""
    said = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        words = json.loads(line)
        reply = most_whole_weights(words[1:]) if words[0] == "whole" else make_run(words)
        forget_failures()
        said.write(json.dumps(reply._asdict()) + "\n")
        said.flush()


def forget_failures() -> None:
    """After a failure a process ends; these go on, and the next failure has to be told again."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        if dist.get_rank() == 0:
            dist.distributed_c10d._get_default_store().delete_key("plackett/failed")


if __name__ == "__main__":
    work()
