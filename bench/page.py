"""How soon the next task is on the screen after a rater submits: the real page in a real Chromium.

    python bench/page.py [--tasks 60] [--runs 3]

Four responses of 300 words each, ranked by five key presses. Measured in the browser, from the key that
submits to the frame in which the next task's cards are painted; the ranking is in PostgreSQL by then.
Prints one JSON object: medians and the 95th percentile in milliseconds, of each run and of all.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.async_api import Page, async_playwright

from app.accounts import service as accounts
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import Role
from app.db.engine import open_sessions
from app.db.migrate import migrate
from app.intake.service import import_prompts
from app.projects.schemas import ProjectIn
from app.projects.service import create_project
from app.prompts.parse import parse_row
from simulation.browser import ARGUMENTS, find_chromium
from simulation.cluster import temporary_server
from simulation.served import free_port, wait_until_ready

WORDS = "the keeper counted seven ships before fog rolled over our harbour wall".split()  # noqa: SIM905
# The page tells when it has put a task on the screen; the second frame after that has painted it.
WATCH = """() => {
  window.swaps = [];
  let pressed = 0;
  const note = event => { if (event.key === "Enter") pressed = event.timeStamp; };
  document.addEventListener("keydown", note, true);
  const painted = () => window.swaps.push(performance.now() - pressed);
  document.addEventListener("plackett:shown", () =>
    requestAnimationFrame(() => requestAnimationFrame(painted)));
}"""


async def prepare(url: str, tasks: int) -> tuple[str, str]:
    """(the project's slug, a rater's session token)."""
    async with open_sessions(url) as sessions, sessions() as session:
        rater = await accounts.create_user(session, f"{uuid.uuid4().hex}@example.org", Role.RATER)
        token = await accounts.create_session(session, rater, days=1)
        slug = f"p-{uuid.uuid4().hex[:8]}"
        project = await create_project(session, ProjectIn(slug=slug, name="Bench", gold_rate=0))
        rows = []
        for number in range(tasks):
            texts = [
                " ".join(WORDS[(n * n + k + number) % len(WORDS)] for n in range(300)) + f" {k}"
                for k in range(4)
            ]
            row = {"prompt": f"Question {number}", "candidates": texts}
            rows.append(parse_row(row, number + 1, max_bytes=100_000))
        await import_prompts(session, project, rows, source="bench", actor=None)
        await session.commit()
    return slug, token


async def rate(page: Page, tasks: int) -> list[float]:
    """Rank every task but the last by key; the swaps in milliseconds."""
    await page.evaluate(WATCH)
    for number in range(tasks - 1):
        assignment = await page.get_attribute("#workspace", "data-assignment")
        for key in ("1", "2", "3", "4", "Enter"):
            await page.keyboard.press(key)
        await page.wait_for_selector(f"#workspace:not([data-assignment='{assignment}'])")
        await page.wait_for_function(f"() => window.swaps.length > {number}")
        await page.wait_for_timeout(300)  # the fastest of raters reads at least this long
    found: list[float] = await page.evaluate("window.swaps")
    return found


def describe(swaps: list[float]) -> dict[str, Any]:
    """Median and 95th percentile, in ms."""
    return {
        "swaps": len(swaps),
        "median_ms": round(statistics.median(swaps), 1),
        "p95_ms": round(sorted(swaps)[int(0.95 * len(swaps))], 1),
    }


async def measure(address: str, url: str, tasks: int, runs: int) -> list[list[float]]:
    """The swaps of each run, each with a rater and a project of its own."""
    found = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        for _ in range(runs):
            slug, token = await prepare(url, tasks)
            context = await browser.new_context(viewport={"width": 1280, "height": 900})
            cookie = {"name": SESSION_COOKIE, "value": token, "url": address}
            await context.add_cookies([cookie])  # type: ignore[list-item]
            page = await context.new_page()
            await page.goto(f"{address}/rate/{slug}")
            await page.wait_for_selector(".card")  # the page takes its first task by itself
            found.append(await rate(page, tasks))
            await context.close()
        await browser.close()
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, temporary_server(Path(folder)) as url:
        migrate(url)
        port = free_port()
        log = Path(folder) / "web.log"
        with log.open("ab") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", "--port", str(port)],
                env={**os.environ, "DATABASE_URL": url, "PLACKETT_DATA_DIR": folder},
                stdout=output,
                stderr=output,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, log)
            runs = asyncio.run(measure(address, url, wanted.tasks, wanted.runs))
        finally:
            server.terminate()
            server.wait()
    every = [swap for run in runs for swap in run]
    print(json.dumps({"runs": [describe(run) for run in runs], "all": describe(every)}))


if __name__ == "__main__":
    main()
