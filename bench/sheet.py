"""What people see: every page of every role, in each size and theme, on one sheet to look at.

    python bench/sheet.py --out FOLDER [--only PART_OF_A_PATH]

Starts an application with long names and texts of several sizes, takes each page at 1440x900, 1280x720 and
390x844, light and dark, and writes the pictures, one sheet for each page and an index.html beside them.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.async_api import Browser, async_playwright
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service as accounts
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import Role
from app.datasets.models import Export
from app.db.engine import open_sessions
from app.db.migrate import migrate
from app.intake.service import import_prompts
from app.policies.models import Backend
from app.policies.schemas import PolicyIn
from app.policies.service import register_policy
from app.projects.schemas import ProjectIn
from app.projects.service import add_members, create_project
from app.prompts.parse import PromptRow, RowError, parse_row
from app.rating import assign
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.training.models import Run
from simulation.browser import ARGUMENTS, find_chromium
from simulation.cluster import temporary_server
from simulation.served import free_port, wait_until_ready

SIZES = {"wide": (1440, 900), "laptop": (1280, 720), "phone": (390, 844)}
SLUG = "helpfulness-of-long-answers"
NAME = "Helpfulness and honesty of long answers, second collection (spring)"
SENTENCE = "The keeper counted seven ships before the fog rolled over our harbour wall. "
PROJECT = ("", "/prompts", "/generation", "/guidelines", "/raters", "/imports", "/leaderboard")
PAGES = [
    *(
        (Role.ADMIN, f"/admin/projects/{SLUG}{each}")
        for each in (*PROJECT, "/members", "/settings")
    ),
    *((Role.ADMIN, f"/admin/{each}") for each in ("projects", "projects/new", "people", "audit")),
    (Role.ADMIN, f"/admin/projects/{SLUG}/nothing-here"),
    *((Role.RESEARCHER, f"/admin/projects/{SLUG}{each}") for each in ("", "/prompts")),
    (Role.RESEARCHER, f"/admin/policies?project={SLUG}"),
    *((Role.RESEARCHER, f"/research/{each}?project={SLUG}") for each in ("exports", "runs")),
    *((Role.RATER, each) for each in ("/rate", f"/rate/{SLUG}", "/rate/history", "/account")),
]


async def furnish(session: AsyncSession) -> dict[Role, str]:
    """Something to see on every page; a session token for each role."""
    tokens, people = {}, {}
    for role in Role:
        address = f"maximiliane.von-und-zu-{role.value}@department-of-linguistics.example.org"
        people[role] = await accounts.create_user(
            session, address, role, name=f"Maximiliane von und zu {role.value.title()}"
        )
        tokens[role] = await accounts.create_session(session, people[role], days=1)
    wanted = ProjectIn(
        slug=SLUG,
        name=NAME,
        description=SENTENCE * 3,
        overlap=3,
        members_only=True,
        guidelines=f"# What a good answer is\n\n{SENTENCE * 20}\n\n- honest\n- *complete*\n",
    )
    project = await create_project(session, wanted, actor=people[Role.ADMIN].id)
    await add_members(session, project, list(people.values()), actor=people[Role.ADMIN].id)
    for number in range(6):
        other = ProjectIn(slug=f"another-{number}", name=f"Another collection {number}")
        await create_project(session, other)
    for name in ("base", "tuned"):
        model = PolicyIn(
            name=f"stories-{name}",
            backend=Backend.OPENAI,
            model=name,
            base_url="http://127.0.0.1:9/v1",
        )
        policy = await register_policy(session, model)
    rows: list[PromptRow | RowError] = []
    for number in range(1, 121):
        texts = [SENTENCE * length + str(number) for length in (1, 6, 20, 3)]
        candidates = [
            {"text": text, "policy": f"stories-{'base' if place % 2 else 'tuned'}"}
            for place, text in enumerate(texts)
        ]
        row = {
            "prompt": f"{number}. {SENTENCE * 3}",
            "candidates": candidates,
            "id": f"row-{number}",
        }
        rows.append(parse_row(row, number, max_bytes=100_000))
    rows.append(RowError(121, "prompt", "must be a string or a list of messages"))
    file = "answers-of-the-second-collection.jsonl"
    await import_prompts(session, project, rows, source=file, actor=people[Role.ADMIN].id)
    rater = people[Role.RATER]
    for turn in range(8):
        lease = await assign.lease_next_task(session, project, rater)
        assert lease is not None
        ranks = {each.id: (place + turn) % 4 + 1 for place, each in enumerate(lease.candidates)}
        await submit_ranking(session, lease.assignment_id, rater, RankingIn(ranks=ranks))
    export = Export(project_id=project.id, name="first-export", filters={}, split={})
    session.add(export)
    await session.flush()
    session.add(
        Run(
            project_id=project.id,
            stage="reward",
            catalogue={"title": "Reward model", "makes": "reward"},
            export_id=export.id,
            base_policy_id=policy.id,
            config={},
        )
    )
    await session.commit()
    return tokens


async def take(
    browser: Browser, address: str, tokens: dict[Role, str], out: Path, only: str
) -> None:
    """The pictures, and their sheets."""
    chosen = [(role, path) for role, path in PAGES if only in path]
    for size, (width, height) in SIZES.items():
        for theme in ("light", "dark"):
            for number, (role, path) in enumerate(chosen):
                context = await browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if theme == "dark" else "light",
                )
                cookie = {"name": SESSION_COOKIE, "value": tokens[role], "url": address}
                await context.add_cookies([cookie])  # type: ignore[list-item]
                page = await context.new_page()
                await page.goto(address + path)
                await page.screenshot(path=out / f"{number:02}-{size}-{theme}.png")
                await context.close()
    sections = []
    for number, (role, path) in enumerate(chosen):
        pictures = "".join(
            f'<img src="{number:02}-{size}-{theme}.png" alt="{size}, {theme}" height="400">'
            for theme in ("light", "dark")
            for size in SIZES
        )
        sections.append(f"<h2>{role.value} {escape(path)}</h2>{pictures}")
    (out / "index.html").write_text("<!doctype html><title>Sheet</title>" + "\n".join(sections))
    page = await browser.new_page(viewport={"width": 1600, "height": 900})
    for number, section in enumerate(sections):
        (out / "one.html").write_text(f"<!doctype html>{section}")
        await page.goto((out / "one.html").as_uri())
        await page.screenshot(path=out / f"sheet-{number:02}.png", full_page=True)
    (out / "one.html").unlink()


async def look(address: str, url: str, out: Path, only: str) -> None:
    """Furnish the database, and take all of it."""
    async with open_sessions(url) as sessions, sessions() as session:
        tokens = await furnish(session)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        await take(browser, address, tokens, out, only)
        await browser.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
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
            asyncio.run(look(address, url, wanted.out.resolve(), wanted.only))
        finally:
            server.terminate()
            server.wait()
    print(f"open {wanted.out / 'index.html'}")


if __name__ == "__main__":
    main()
