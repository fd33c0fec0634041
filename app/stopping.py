"""How a process of ours ends when it is told to: in order, and within a bound that holds in every state.

The first SIGTERM, SIGINT or SIGHUP raises `Stopped` in the main thread (or goes to whoever has put a
handler of their own in its place: uvicorn, the queue's worker), and a clock starts. What is still going
on when it strikes is not waited for any longer: the last rites are held (the embedded PostgreSQL must not
stay behind) and the process ends. A second signal changes nothing.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

# A stop takes at most 15 s: service managers and containers are told to wait longer than that.
# What is in flight has the first seconds, then whoever holds it up is cut off (an app process by
# `app.serve`, a part of the demo by `app.demo`), then the database is stopped.
REQUEST_SECONDS = 6.0
JOB_SECONDS = 5.0
PROCESS_SECONDS = 9.5
LAST_SECONDS = 11.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """We were told to end. A KeyboardInterrupt, because libraries know how to let go on one."""


class _Clock:
    """What this process knows of its own end."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deferring = 0
        self.waiting = False
        self.instead: Callable[[], object] | None = None
        self.rites: list[Callable[[], None]] = []


_clock = _Clock()


def obey() -> None:
    """Let signals end this process as described above. Of the main thread only."""
    for each in SIGNALS:
        # Whoever started us with `nohup` wants a closed terminal to be ignored.
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _told)


def told() -> int | None:
    """The signal that this process is ending by, if any."""
    return _clock.signal


def begin(signum: int = signal.SIGTERM) -> None:
    """Start the clock, once."""
    if _clock.signal is None:
        _clock.signal = signum
        threading.Thread(target=_strike, args=[LAST_SECONDS], daemon=True).start()


def hold_last_rite(rite: Callable[[], None]) -> None:
    """Have something done in any case before the process ends by the clock."""
    _clock.rites.append(rite)


def drop_last_rite(rite: Callable[[], None]) -> None:
    """It has been done."""
    if rite in _clock.rites:
        _clock.rites.remove(rite)


@contextmanager
def deferred() -> Iterator[None]:
    """A piece of work that a signal must not tear: `Stopped` is raised at its end."""
    _clock.deferring += 1
    try:
        yield
    finally:
        _clock.deferring -= 1
    if _clock.waiting and not _clock.deferring:
        _clock.waiting = False
        raise Stopped


@contextmanager
def calling(callback: Callable[[], object]) -> Iterator[None]:
    """Within the context a signal calls this; nothing is raised."""
    _clock.instead = callback
    try:
        yield
    finally:
        _clock.instead = None


def _told(signum: int, _: FrameType | None) -> None:
    first = _clock.signal is None
    begin(signum)
    if not first:
        return
    if _clock.instead is not None:
        _clock.instead()
    elif _clock.deferring:
        _clock.waiting = True
    else:
        raise Stopped


def _strike(seconds: float) -> None:
    time.sleep(seconds)
    log.error("this process does not end in order and is ended", seconds=seconds)
    for rite in list(_clock.rites):
        try:
            rite()
        except Exception as error:
            log.error("a last rite failed", error=str(error))
    os._exit(128 + (_clock.signal or signal.SIGTERM))


# How long a task that was cancelled may take to notice.
CANCEL_SECONDS = 0.5


async def call_off(task: "asyncio.Task[object]") -> None:
    """Cancel a task that goes on for ever, and wait for its end.

    A cancellation can be lost: what `asyncio.wait_for` waits for may come in the same moment (before
    Python 3.12), and libraries that wait so go on. So it is said again until the task has ended.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
    if not task.cancelled():
        task.exception()  # nobody else asks for it
