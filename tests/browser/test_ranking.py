"""A rater at work: the database holds exactly what was done on the page."""

import uuid
from itertools import product

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now
from app.projects.models import Project
from app.rating.models import Assignment, AssignmentState, Comparison, Ranking
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    rater = await create_user(session, password=PASSWORD)
    await session.commit()
    session.expunge(rater)  # so that it stays readable when the session looks anew
    return rater


async def open_project(
    session: AsyncSession, page: Page, site: Site, rater: User, *, tasks: int = 2, count: int = 4
) -> Project:
    project = await create_project(
        session,
        slug=f"p-{uuid.uuid4().hex[:8]}",
        candidates_per_task=count,
        guidelines="# Rules\n\nBe *fair*.",
        axes=[{"name": "helpful", "question": "How helpful is it?", "min": 1, "max": 5}],
    )
    await create_tasks(session, project, tasks, candidates=count)
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await expect(page.locator(".card")).to_have_count(count)
    return project


async def shown(page: Page) -> dict[str, str]:
    """Letter to candidate id."""
    cards = page.locator(".card")
    return {
        str(await card.get_attribute("data-letter")): str(
            await card.get_attribute("data-candidate")
        )
        for card in await cards.all()
    }


async def stored(session: AsyncSession, rater: User) -> list[Ranking]:
    await session.rollback()
    rows = await session.scalars(
        select(Ranking).where(Ranking.rater_id == rater.id).order_by(Ranking.id)
    )
    return list(rows)


async def drag(page: Page, letter: str, tier: int) -> None:
    """By hand: press on the card's head, move in small steps, let go over the place."""
    await page.wait_for_timeout(250)  # the cards before it glide into their places
    head = await page.locator(f".card[data-letter={letter}] .card-head").bounding_box()
    assert head
    await page.mouse.move(head["x"] + 60, head["y"] + 15)
    await page.mouse.down()
    for _ in range(3):  # places make room on the way, and the hand follows
        place = await page.locator(f".tier-list[data-tier='{tier}']").bounding_box()
        assert place
        await page.mouse.move(place["x"] + 60, place["y"] + place["height"] - 12, steps=8)
        await page.wait_for_timeout(150)
    await page.mouse.up()


async def test_ranking_with_the_mouse_by_dragging(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    # Tall enough to see cards and places at once, as one drags.
    await page.set_viewport_size({"width": 1280, "height": 1700})
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for letter, tier in (("C", 1), ("A", 2), ("D", 2), ("B", 4)):
        await drag(page, letter, tier)
        await expect(
            page.locator(f".tier-list[data-tier='{tier}'] [data-letter={letter}]")
        ).to_be_visible()
    await expect(page.locator("#order")).to_have_text("C > A = D > B")
    await page.click("#submit")
    await expect(page.locator(".recap .order")).to_have_text("C > A = D > B")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["C"]: 1, ids["A"]: 2, ids["D"]: 2, ids["B"]: 3}
    assert [str(each) for each in ranking.presented] == [ids[letter] for letter in "ABCD"]
    pairs = await session.scalar(
        select(func.count()).select_from(Comparison).where(Comparison.ranking_id == ranking.id)
    )
    assert pairs == 6


async def test_ranking_four_candidates_takes_five_keys(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for key in ("2", "1", "4", "3", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap .order")).to_have_text("B > A > D > C")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["B"]: 1, ids["A"]: 2, ids["D"]: 3, ids["C"]: 4}
    # The next task is there and takes keys at once.
    await page.keyboard.press("1")
    await expect(page.locator("#order")).to_have_text("A")


async def test_everything_by_keyboard_alone(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    ids = await shown(page)
    await page.keyboard.press("g")
    await expect(page.locator("#guidelines-dialog")).to_contain_text("Be fair")
    await page.keyboard.press("Escape")
    for key in ("1", "1", "2", "3"):
        await page.keyboard.press(key)
    await page.keyboard.press("u")  # undo: D has no place again, and is marked
    await expect(page.locator("#order")).to_have_text("A = B > C")
    await page.keyboard.press("2")
    await page.keyboard.press("Shift+ArrowDown")
    await expect(page.locator("#order")).to_have_text("A = B > C > D")
    await expect(page.locator("#announcer")).to_contain_text("Response D is now 3rd")
    await page.focus("input[name=axis-helpful][value='4']")
    await page.keyboard.press("Space")
    await page.focus("#rationale")
    await page.keyboard.type("A and B say the same.")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".recap .order")).to_have_text("A = B > C > D")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["A"]: 1, ids["B"]: 1, ids["C"]: 2, ids["D"]: 3}
    assert ranking.axes == {"helpful": 4}
    assert ranking.rationale == "A and B say the same."
    assert ranking.seconds is not None


async def test_skipping_with_a_reason(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    first = await page.get_attribute("#workspace", "data-assignment")
    await page.keyboard.press("s")
    await page.fill("#other", "I wrote one of these")
    await page.keyboard.press("Enter")
    await expect(page.locator(f"#workspace:not([data-assignment='{first}'])")).to_be_visible()
    await session.rollback()
    skipped = await session.get_one(Assignment, uuid.UUID(first))
    assert skipped.state is AssignmentState.SKIPPED
    assert skipped.skip_reason == "I wrote one of these"


async def test_a_draft_survives_a_reload_and_another_browser(
    session: AsyncSession, page: Page, browser: Browser, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater)
    await page.keyboard.press("3")
    await page.fill("#rationale", "half a thought")
    await expect(page.locator("#saved")).to_have_text("Draft saved")
    await page.reload()
    await expect(page.locator("#rationale")).to_have_value("half a thought")
    await expect(page.locator("#order")).to_have_text("A")
    elsewhere = await browser.new_context()
    other = await elsewhere.new_page()
    await sign_in(other, site, rater.email)
    await other.goto(f"{site.address}/rate/{project.slug}")
    await expect(other.locator("#rationale")).to_have_value("half a thought")
    await expect(other.locator("#order")).to_have_text("A")
    await elsewhere.close()


async def test_an_incomplete_ranking_is_not_sent_and_a_double_click_sends_one(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    await page.keyboard.press("1")
    await page.keyboard.press("Enter")
    await expect(page.locator("#announcer")).to_contain_text("Every response needs a place")
    assert await stored(session, rater) == []
    for key in ("2", "3", "4"):
        await page.keyboard.press(key)
    await page.dblclick("#submit")
    await expect(page.locator(".recap")).to_be_visible()
    assert len(await stored(session, rater)) == 1


async def test_a_lost_line_loses_nothing(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    await page.context.set_offline(True)
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator("#saved")).to_contain_text("No connection")
    await page.context.set_offline(False)
    await page.keyboard.press("Enter")
    await expect(page.locator(".recap .order")).to_have_text("A > B > C > D")
    assert len(await stored(session, rater)) == 1


async def test_a_ranking_after_the_lease_ran_out_is_stored(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    await session.execute(
        update(Assignment).where(Assignment.rater_id == rater.id).values(expires_at=utc_now())
    )
    await session.commit()
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap")).to_be_visible()
    (ranking,) = await stored(session, rater)
    assert not ranking.extra


async def test_a_phones_buttons_and_no_sideways_scrolling(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    phone = await browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = await phone.new_page()
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for letter, place in (("A", 2), ("B", 1), ("C", 2), ("D", 3)):
        await page.tap(f".card[data-letter={letter}] [data-place='{place}']")
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    await page.tap("#submit")
    await expect(page.locator(".recap .order")).to_have_text("B > A = C > D")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["B"]: 1, ids["A"]: 2, ids["C"]: 2, ids["D"]: 3}
    await phone.close()


async def test_without_scripts_the_page_still_ranks(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    plain = await browser.new_context(java_script_enabled=False)
    page = await plain.new_page()
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for letter, place in zip("ABCD", "1432", strict=True):
        await page.select_option(f".card[data-letter={letter}] select", place)
    await page.click("#submit")
    await expect(page.locator(".notice")).to_have_text("Your ranking is stored.")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["A"]: 1, ids["D"]: 2, ids["C"]: 3, ids["B"]: 4}
    await plain.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
async def test_every_permutation_and_tie_pattern_from_the_page_to_the_database(
    session: AsyncSession, page: Page, site: Site, rater: User, count: int
) -> None:
    patterns = list(product(range(1, count + 1), repeat=count))
    await open_project(session, page, site, rater, tasks=len(patterns), count=count)
    expected = []
    for number, pattern in enumerate(patterns, start=1):
        ids = await shown(page)
        used = sorted(set(pattern))
        expected.append(
            {
                ids[letter]: used.index(place) + 1
                for letter, place in zip("ABC", pattern, strict=False)
            }
        )
        assignment = await page.get_attribute("#workspace", "data-assignment")
        for place in pattern:
            await page.keyboard.press(str(place))
        await page.keyboard.press("Enter")
        if number < len(patterns):
            await expect(
                page.locator(f"#workspace:not([data-assignment='{assignment}'])")
            ).to_be_visible()
    await expect(page.locator("#workspace .empty")).to_be_visible()
    assert [ranking.ranks for ranking in await stored(session, rater)] == expected
