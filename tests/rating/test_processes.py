"""Raters on the served application, over real connections: what `bench/rating.py` measures, in small."""

import os
import signal
import time
from pathlib import Path

import pytest

from app.settings import CHECKOUT
from simulation.load import broken, check, finish_raters, start_raters
from simulation.served import serving, wait_for
from simulation.stage import seed


@pytest.mark.slow
def test_a_killed_process_costs_no_rater_their_work(fresh_database: str, tmp_path: Path) -> None:
    stage = seed(fresh_database, tasks=400, raters=6, words=10)
    with serving(CHECKOUT, stage.url, workers=2, log=tmp_path / "app.log") as served:
        load = start_raters(stage, served, stage.tokens, seconds=5, warmup=0, seed=0)
        time.sleep(1.5)
        victim, up = served.workers()[0], served.started()
        os.kill(victim, signal.SIGKILL)
        killed = time.time()
        wait_for(lambda: served.started() > up, served.process)
        log = finish_raters(load)
        assert len(set(served.workers()) - {victim}) == 2
    checks = check(stage.url, log["acknowledged"])
    assert log["unexpected"] == []
    assert broken(checks) == []
    assert any(moment > killed for moment in log["answered_at"])
    # Stored and never acknowledged is only what was on its way when its process died or time was up.
    assert 0 <= checks["rankings"] - checks["acknowledged"] <= len(stage.tokens)
    assert checks["acknowledged"] > 20
