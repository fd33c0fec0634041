"""A real Chromium, a real server process, a real database, real HTTP."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import SessionMaker, create_engine, create_sessions
from app.settings import CHECKOUT
from simulation.browser import ARGUMENTS, find_chromium
from simulation.cluster import new_database
from simulation.served import free_port, wait_until_ready
from tests.factories.accounts import PASSWORD
from tests.node import build_bundles


@dataclass
class Site:
    """A running application and its database."""

    address: str
    database_url: str
    data_dir: Path
    sessions: SessionMaker


def start_server(database_url: str, data_dir: Path, port: int) -> subprocess.Popen[bytes]:
    """The web application as people start it."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "PLACKETT_DATA_DIR": str(data_dir),
    }
    with (data_dir / "web.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port)],
            cwd=CHECKOUT,
            env=environment,
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope="session")
async def site(
    server_url: str, template_name: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """One server for all browser tests of a worker process; each test makes its own project."""
    data_dir = tmp_path_factory.mktemp("site")
    build_bundles()
    with new_database(server_url, f"site_{template_name}", template=template_name) as url:
        port = free_port()
        process = start_server(url, data_dir, port)
        engine = create_engine(url, pool_size=2)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, data_dir / "web.log")
            yield Site(address, url, data_dir, create_sessions(engine))
        finally:
            process.terminate()
            process.wait(timeout=30)
            await engine.dispose()


@pytest.fixture
async def session(site: Site) -> AsyncIterator[AsyncSession]:
    """A session on the site's database: what it commits, the server sees."""
    async with site.sessions() as session:
        yield session


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh browser profile on a wide screen."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A tab; a script error in it fails the test."""
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []


async def sign_in(page: Page, site: Site, email: str) -> None:
    """Through the form, as people do."""
    await page.goto(f"{site.address}/sign-in")
    await page.fill("#email", email)
    await page.fill("#password", PASSWORD)
    await page.click("button[type=submit]")
    await page.wait_for_url(lambda url: "/sign-in" not in url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a browser test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
