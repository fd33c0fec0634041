"""`bench/rating.py --scale`: what a lease costs with a million open tasks, beside a thousand.

Two databases on one server, an application for each, one rater at a time, in turns. Then every statement of
a rater's day (lease, draft, submit, a sweep of leases that ran out, a late submit, skip) is explained on
the large one before it runs, as planned for its values and as planned once for all (the driver prepares
statements, and PostgreSQL may choose either): none may scan a table from end to end.
"""

import asyncio
import logging
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy import event

from app.db.engine import create_engine, create_sessions, libpq_url
from app.db.migrate import migrate
from app.logs import configure_logs
from app.main import create_app
from app.settings import CHECKOUT, Settings
from bench.load import measure, middle
from bench.machine import tell
from simulation.cluster import new_database
from simulation.load import check
from simulation.served import Served, serving
from simulation.stage import Stage, seed

SMALL = 1_000
ROUNDS = 5
OVERLAP = 10  # so that the small project's tasks are open from the first round to the last
# Nobody's work may read one of these from end to end.
LARGE_TABLES = ("tasks", "assignments", "rankings", "comparisons", "candidates", "prompts")


class Explainer(psycopg.AsyncCursor[Any]):
    """A cursor that has each statement explained, with its effects undone, before it runs."""

    plans: list[tuple[str, list[str]]]  # of all cursors; set by `explain`
    generic: bool

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """What the cursor does, after the plan has been noted."""
        words = " ".join(str(query).split())
        if words.upper().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
            plain = psycopg.AsyncCursor(self.connection)
            mode = "force_generic_plan" if self.generic else "force_custom_plan"
            await plain.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await plain.execute("SAVEPOINT explained")
            await plain.execute(f"EXPLAIN (ANALYZE, BUFFERS) {query}", params)
            self.plans.append((words, [row[0] for row in await plain.fetchall()]))
            await plain.execute("ROLLBACK TO SAVEPOINT explained")
        return await super().execute(query, params, **options)


async def explain(stage: Stage, *, generic: bool) -> list[tuple[str, list[str]]]:
    """(statement, its plan) of all that two raters' requests send, once each."""
    configure_logs("console", level=logging.WARNING)
    Explainer.plans, Explainer.generic = [], generic
    engine = create_engine(stage.url)

    def watch(connection: Any, _: object) -> None:
        connection.driver_connection.cursor_factory = Explainer

    event.listen(engine.sync_engine, "connect", watch)
    app = create_app(Settings(database_url=stage.url))
    app.state.sessions = create_sessions(engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://bench") as client:

        async def call(method: str, path: str, rater: int, **body: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {stage.tokens[rater]}"}
            answer = await client.request(method, f"/api/v1{path}", headers=headers, json=body)
            if answer.status_code >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
            return answer

        async def lease(rater: int) -> tuple[str, dict[str, Any]]:
            task = (await call("POST", f"/projects/{stage.slug}/assignments", rater)).json()
            ranks = {each["id"]: place for place, each in enumerate(task["candidates"], start=1)}
            return f"/assignments/{task['id']}", {"ranks": ranks}

        path, ranking = await lease(0)
        await lease(0)  # the same again
        await call("PUT", f"{path}/draft", 0, **ranking)
        with psycopg.connect(libpq_url(stage.url)) as connection:
            connection.execute("UPDATE assignments SET expires_at = now() WHERE state = 'leased'")
        other, other_ranking = await lease(1)  # and a sweep
        await call("PUT", f"{path}/ranking", 0, **ranking)  # too late for its lease
        await call("PUT", f"{other}/ranking", 1, **other_ranking)
        await call("PUT", f"{other}/ranking", 1, **other_ranking)  # the same again
        path, _ = await lease(1)
        await call("POST", f"{path}/skip", 1, reason="bench")
    await engine.dispose()
    return list(dict(Explainer.plans).items())


def scans(plans: list[tuple[str, list[str]]]) -> list[str]:
    """The large tables that a plan reads from end to end."""
    pattern = re.compile(rf"Seq Scan on ({'|'.join(LARGE_TABLES)})\b")
    return [name for _, plan in plans for line in plan for name in pattern.findall(line)]


def compare_sizes(
    server: str, folder: Path, *, tasks: int, seconds: float, words: int
) -> dict[str, Any]:
    """Lease and submit times at both sizes, the ratio, and the plans on the large one."""
    with ExitStack() as stack:
        stages: dict[int, Stage] = {}
        served: dict[int, Served] = {}
        for size in (SMALL, tasks):
            url = stack.enter_context(new_database(server, f"plackett_bench_{size}"))
            migrate(url)
            stages[size] = seed(url, tasks=size, raters=ROUNDS + 2, words=words, overlap=OVERLAP)
            log = folder / f"app-{size}.log"
            served[size] = stack.enter_context(serving(CHECKOUT, url, workers=1, log=log))
        runs: dict[int, list[dict[str, Any]]] = {size: [] for size in stages}
        acknowledged: dict[int, list[Any]] = {size: [] for size in stages}
        for number in range(ROUNDS):
            for size, stage in stages.items():
                run = measure(
                    stage,
                    served[size],
                    [
                        stage.tokens[2 + number]
                    ],  # somebody new: who has ranked much has more to pass over
                    seconds=seconds / ROUNDS,
                    warmup=1,
                    seed=number,
                )
                acknowledged[size] += run.pop("log")["acknowledged"]
                tell(f"round {number + 1}, {size:,} tasks: {run}")
                runs[size].append(run)
        plans = {
            kind: asyncio.run(explain(stages[tasks], generic=kind == "planned once for all"))
            for kind in ("planned for the values", "planned once for all")
        }
        checks = [check(stage.url, acknowledged[size]) for size, stage in stages.items()]
    figures = {size: middle(each) for size, each in runs.items()}
    small, large = figures[SMALL], figures[tasks]
    return {
        "open_tasks": {f"{size:,}": each for size, each in figures.items()},
        "lease_ratio": round(large["lease_ms"]["p50"] / small["lease_ms"]["p50"], 2),
        "submit_ratio": round(large["submit_ms"]["p50"] / small["submit_ms"]["p50"], 2),
        "unexpected": [
            words for each in runs.values() for run in each for words in run["unexpected"]
        ],
        "sequential_scans": sorted({name for each in plans.values() for name in scans(each)}),
        "plans": {
            kind: [{"statement": statement, "plan": plan} for statement, plan in each]
            for kind, each in plans.items()
        },
        "checks": {name: sum(each[name] for each in checks) for name in checks[0]},
    }
