"""A rater at work: the database holds exactly what was done on the page."""

import asyncio
import json
import random
import re
import uuid
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.types import utc_now
from app.projects.models import Project
from app.projects.service import publish_guidelines
from app.rating import assign
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
    session: AsyncSession,
    page: Page,
    site: Site,
    rater: User,
    *,
    tasks: int = 2,
    count: int = 4,
    **settings: Any,
) -> Project:
    project = await create_project(
        session,
        slug=f"p-{uuid.uuid4().hex[:8]}",
        candidates_per_task=count,
        guidelines="# Rules\n\nBe *fair*.",
        axes=[{"name": "helpful", "question": "How helpful is it?", "min": 1, "max": 5}],
        **settings,
    )
    await create_tasks(session, project, tasks, candidates=count)
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await page.get_by_role("button", name="I have read them").click()
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


async def drag(page: Page, letter: str, tier: int, handle: str = ".card-head") -> None:
    """By hand: press on the card's head (or chip), move in small steps, let go over the place."""
    held = page.locator(f".card[data-letter={letter}] {handle}")
    if handle == ".chip":
        held = page.locator(f".chip:text-is('{letter}')")
    start = await held.bounding_box()
    place = await page.locator(f".slot[data-tier='{tier}']").bounding_box()
    assert start
    assert place
    await page.mouse.move(start["x"] + 14, start["y"] + 14)
    await page.mouse.down()
    await page.mouse.move(place["x"] + 20, place["y"] + 20, steps=8)
    await page.mouse.up()


async def test_ranking_with_the_mouse_by_dragging(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for letter, tier in (("C", 1), ("A", 2), ("D", 2), ("B", 3)):
        await drag(page, letter, tier)
        await expect(
            page.locator(f".slot[data-tier='{tier}'] .chip:text-is('{letter}')")
        ).to_be_visible()
    await drag(page, "B", 4, ".chip")  # a change of mind, by its chip
    await expect(page.locator("#order")).to_have_text("C > A = D > B")
    await page.click("#submit")
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("C > A = D > B")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["C"]: 1, ids["A"]: 2, ids["D"]: 2, ids["B"]: 3}
    assert [str(each) for each in ranking.candidate_ids] == [ids[letter] for letter in "ABCD"]
    pairs = await session.scalar(
        select(func.count()).select_from(Comparison).where(Comparison.ranking_id == ranking.id)
    )
    assert pairs == 6


async def test_a_drag_that_is_let_go_elsewhere_or_given_up_changes_nothing(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    head = await page.locator(".card[data-letter=A] .card-head").bounding_box()
    slot = await page.locator(".slot[data-tier='1']").bounding_box()
    assert head
    assert slot
    for give_up in (False, True):
        await page.mouse.move(head["x"] + 20, head["y"] + 10)
        await page.mouse.down()
        await page.mouse.move(slot["x"] + 9, slot["y"] + 9, steps=4)
        await expect(page.locator(".ghost")).to_be_visible()
        if give_up:
            await page.keyboard.press("Escape")
        else:
            await page.mouse.move(300, 200, steps=4)
        await page.mouse.up()
        await expect(page.locator(".ghost")).to_have_count(0)
        await expect(page.locator("#order")).to_have_text("Nothing placed yet")


async def test_ranking_four_candidates_takes_five_keys(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for key in ("2", "1", "4", "3", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("B > A > D > C")
    await expect(page.locator("#today")).to_have_text("1 today")
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
    await page.keyboard.press("Shift+ArrowDown")
    await expect(page.locator("#order")).to_have_text("A = B > C > D")
    await expect(page.locator("#announcer")).to_contain_text("D is now in place 3")
    await page.focus("input[name=axis-helpful][value='4']")
    await page.keyboard.press("Space")
    await page.focus("#rationale")
    await page.keyboard.type("A and B say the same.")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("A = B > C > D")
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


async def test_enter_submits_after_the_mouse_has_chosen_the_places(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=1, count=3)
    for letter, place in (("A", 1), ("B", 1), ("C", 3)):
        card = page.locator(f".card[data-letter={letter}]")
        await card.locator(f".place-button[data-place='{place}']").click()
    # 1, 1, 3 is 1, 1, 2: on the badge, on the button, on the strip, and as it is stored.
    card = page.locator(".card[data-letter=C]")
    await expect(card.locator(".place")).to_have_text("2")
    await expect(card.locator("[aria-pressed=true]")).to_have_text("2")
    await expect(page.locator(".slot[data-tier='2'] .chip")).to_have_text("C")
    await expect(page.locator(".slot[data-tier='3'] .chip")).to_have_count(0)
    ids = await shown(page)
    await page.keyboard.press("Enter")
    await expect(page.locator(".recap .badge")).to_be_visible()
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["A"]: 1, ids["B"]: 1, ids["C"]: 2}


async def test_enter_presses_a_place_that_tab_came_to_and_undo_opens_a_gap_again(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=1, count=3)
    card = page.locator(".card[data-letter=A]")
    await card.focus()
    await page.keyboard.press("Tab")
    button = card.locator(".place-button").first
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(button).to_have_attribute("aria-pressed", "true")
    await page.keyboard.press("Enter")
    await expect(button).to_have_attribute("aria-pressed", "false")
    await card.focus()
    for key in ("3", "3", "1"):
        await page.keyboard.press(key)
    await expect(page.locator(".card .place")).to_have_text(["2", "2", "1"])
    await page.keyboard.press("u")
    await expect(page.locator(".card .place")).to_have_text(["3", "3", ""])


async def test_keys_count_by_their_place_where_they_write_no_digit_and_no_latin_letter(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=1, count=3)
    press = """([key, code]) => document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", { key, code, bubbles: true, cancelable: true }))"""
    # AZERTY, Persian, full-width; then the undo of a Russian keyboard.
    for key, code in (("&", "Digit1"), ("۲", "Digit2"), ("３", "Digit3")):
        await page.evaluate(press, [key, code])
    await expect(page.locator(".card .place")).to_have_text(["1", "2", "3"])
    await page.evaluate(press, ["г", "KeyU"])
    await expect(page.locator(".card .place")).to_have_text(["1", "2", ""])


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
    await expect(page.locator(".recap .badge")).to_be_visible()
    assert len(await stored(session, rater)) == 1


async def test_a_lost_line_stops_nobody_and_loses_nothing(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=3)
    await prefetched(page)
    first = await page.get_attribute("#workspace", "data-assignment")
    await page.context.set_offline(True)
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    # The task that was prefetched is there, and can be ranked too.
    await expect(page.locator(f"#workspace:not([data-assignment='{first}'])")).to_be_visible()
    await expect(page.locator(".waiting")).to_contain_text("1 to send")
    for key in ("4", "3", "2", "1", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".waiting")).to_contain_text("2 to send")
    assert await stored(session, rater) == []
    await page.context.set_offline(False)
    await expect(page.locator(".waiting")).to_have_count(0)
    assert len(await stored(session, rater)) == 2
    # And on to the third, by itself.
    await expect(page.locator("#order")).to_have_text("Nothing placed yet", timeout=20_000)


async def test_what_waits_to_be_sent_outlives_the_page_and_the_sign_in(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater)
    await page.context.set_offline(True)
    for key in ("1", "1", "2", "2", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".waiting")).to_be_visible()
    await page.context.clear_cookies()
    await page.context.set_offline(False)
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    # Whichever page of theirs came first has sent it; this one shows the task after it.
    await expect(page.locator("#today")).to_have_text("1 today")
    await expect(page.locator("#order")).to_have_text("Nothing placed yet")
    (ranking,) = await stored(session, rater)
    assert sorted(ranking.ranks.values()) == [1, 1, 2, 2]


async def test_on_a_shared_browser_everybody_sends_their_own(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=1, overlap=2)
    address = f"{site.address}/rate/{project.slug}"
    await page.context.set_offline(True)
    for key in ("1", "1", "2", "2", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".waiting")).to_be_visible()
    await page.context.clear_cookies()
    await page.context.set_offline(False)
    other = await create_user(session, password=PASSWORD)
    await session.commit()
    session.expunge(other)
    await sign_in(page, site, other.email)
    await page.goto(address)
    await page.get_by_role("button", name="I have read them").click()
    await expect(page.locator(".card")).to_have_count(4)
    for key in ("4", "3", "2", "1", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap .badge")).to_be_visible()
    # Nothing of the first rater's is seen, sent or lost.
    await expect(page.locator(".waiting, .refused")).to_have_count(0)
    assert await stored(session, rater) == []
    assert len(await stored(session, other)) == 1
    await page.context.clear_cookies()
    await sign_in(page, site, rater.email)
    await page.goto(address)
    # Whichever page of theirs came first has sent it; where it was left early, this one sent it again.
    await expect(page.locator("#today")).to_have_text(re.compile("[12] today"))
    (ranking,) = await stored(session, rater)
    assert sorted(ranking.ranks.values()) == [1, 1, 2, 2]


async def test_what_is_refused_is_shown_until_its_owner_discards_it(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=3)
    await prefetched(page)
    await session.execute(update(Project).where(Project.id == project.id).values(axes=[]))
    await session.commit()
    for key in ("1", "1", "2", "2", "Enter"):  # the next one is on the page before the answer comes
        await page.keyboard.press(key)
    notice = page.locator(".refused")
    await expect(notice).to_contain_text("questions have changed")
    await page.reload()
    await expect(page.locator(".card")).to_have_count(4)
    # Its own task is on the page again, with all that was put down.
    await expect(page.locator("#order")).to_contain_text("=")
    await session.execute(
        update(Assignment)
        .where(Assignment.rater_id == rater.id, Assignment.prefetched.is_(False))
        .values(state="skipped", slot=None)
    )
    await session.commit()
    await page.reload()
    await expect(notice).to_contain_text("questions have changed")
    await notice.get_by_role("button", name="Discard it").click()
    await expect(notice).to_have_count(0)
    await page.reload()
    await expect(page.locator(".card")).to_have_count(4)
    await expect(notice).to_have_count(0)


async def prefetched(page: Page) -> None:
    """Wait until the task after this one has come."""
    came = """() => performance.getEntriesByType("resource")
        .some(each => each.name.endsWith("/prefetch") && each.responseEnd)"""
    await page.wait_for_function(came)
    await page.wait_for_timeout(50)


PRERENDERED = """
    Object.defineProperty(document, "prerendering", { get: () => !window.seen, configurable: true });
"""
SEEN = """() => { window.seen = true; document.dispatchEvent(new Event("prerenderingchange")); }"""


async def test_a_page_takes_a_task_by_itself_once_somebody_sees_it(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}")
    await create_tasks(session, project, 1)
    await session.commit()
    await page.add_init_script(PRERENDERED)  # before the sign-in, which leads to the page as well
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await expect(page.get_by_role("button", name="Start")).to_be_visible()
    await page.wait_for_load_state("networkidle")
    mine = select(func.count()).where(Assignment.rater_id == rater.id)
    assert await session.scalar(mine) == 0
    await page.evaluate(SEEN)
    await expect(page.locator(".card")).to_have_count(4)
    assert await session.scalar(mine) == 1


async def test_without_scripts_a_button_takes_each_first_task(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    plain = await browser.new_context(java_script_enabled=False)
    page = await plain.new_page()
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}", gold_rate=0)
    await create_tasks(session, project, 2)
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await page.get_by_role("button", name="Start").click()
    for done in range(2):
        await expect(page.locator(".card")).to_have_count(4)
        for rank, choice in enumerate(await page.locator(".card select").all(), 1):
            await choice.select_option(str(rank))
        await page.get_by_role("button", name="Submit").click()
        await expect(page.locator("#today")).to_have_text(f"{done + 1} today")
    await expect(page.get_by_role("button", name="Look again")).to_be_visible()
    await plain.close()


async def test_the_next_task_is_there_before_it_is_asked_for(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=2)
    await prefetched(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(site.address)))
    assignment = await page.get_attribute("#workspace", "data-assignment")
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(f"#workspace:not([data-assignment='{assignment}'])")).to_be_visible()
    assert f"/rate/assignments/{assignment}" in asked
    assert not [each for each in asked if each.endswith("/next")]


async def test_the_last_ranking_can_be_changed_by_one_key(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater)
    ids = await shown(page)
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("A > B > C > D")
    present = await page.get_attribute("#workspace", "data-assignment")
    await page.keyboard.press("b")
    await expect(page.locator("#workspace[data-changing]")).to_be_visible()
    await expect(page.locator("#order")).to_have_text("A > B > C > D")
    assert await shown(page) == ids
    await page.click(".card[data-letter=A] [data-place='4']")
    await page.click(".card[data-letter=B] [data-place='1']")
    await page.keyboard.press("Enter")
    await expect(page.locator(f"#workspace[data-assignment='{present}']")).to_be_visible()
    (ranking,) = await stored(session, rater)
    for _ in range(100):  # the next task is shown before the server has answered
        await session.rollback()
        await session.refresh(ranking)
        if ranking.revised_at is not None:
            break
        await asyncio.sleep(0.1)
    assert ranking.ranks == {ids["B"]: 1, ids["C"]: 2, ids["A"]: 3, ids["D"]: 3}
    assert ranking.revised_at is not None


async def test_two_responses_are_compared_on_a_scale(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, count=2, tasks=8)
    margins = []
    for number in range(7):
        ids = await shown(page)
        assignment = await page.get_attribute("#workspace", "data-assignment")
        await page.keyboard.press(str(number + 1))
        if number == 6:
            await page.keyboard.press("n")
            await expect(page.locator("#announcer")).to_have_text("Both are bad: ✓")
        await page.keyboard.press("Enter")
        await expect(
            page.locator(f"#workspace:not([data-assignment='{assignment}'])")
        ).to_be_visible()
        await expect(page.locator(".recap .badge")).to_be_visible()
        ranking = (await stored(session, rater))[-1]
        sign = ranking.ranks[ids["B"]] - ranking.ranks[ids["A"]]
        margins.append(sign * (ranking.strength or 0))
        pair = await session.scalar(
            select(Comparison.margin).where(Comparison.ranking_id == ranking.id)
        )
        assert pair == abs(margins[-1])
    assert margins == [3, 2, 1, 0, -1, -2, -3]
    assert ranking.flags == ["none-is-good"]
    # By arrows from the middle, and nothing is sent without a choice.
    await page.keyboard.press("Enter")
    await expect(page.locator("#saved")).to_contain_text("Choose how the two compare")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#order")).to_have_text("B slightly better")


async def test_words_in_which_two_responses_differ(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, tasks=1)
    await page.keyboard.press("d")
    difference = page.locator("#difference")
    await expect(difference.locator("del")).to_have_count(1)
    texts = [await card.inner_text() for card in await page.locator(".card .prose").all()]
    assert await difference.locator("del").inner_text() == texts[0].split()[1]
    assert await difference.locator("ins").inner_text() == texts[1].split()[1]
    await page.keyboard.press("Escape")
    await page.keyboard.press("1")
    await page.click("#copy-best")
    await page.keyboard.type(" And more.")
    await expect(page.locator("#rewrite-difference ins")).to_have_text("And more.")


async def test_new_guidelines_are_read_once_before_the_next_task(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=3)
    await prefetched(page)
    await publish_guidelines(session, project, "# Rules\n\nBe *kind*.")
    await session.commit()
    for key in ("1", "2", "3", "4", "Enter"):  # the task in hand
        await page.keyboard.press(key)
    # The one that was fetched under the old rules waits until the new ones are read.
    await expect(page.locator(".reading")).to_contain_text("Be kind")
    await page.get_by_role("button", name="I have read them").click()
    await expect(page.locator(".card")).to_have_count(4)
    await page.reload()
    await expect(page.locator(".card")).to_have_count(4)
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap .badge")).to_be_visible()
    assert [each.guideline_version for each in await stored(session, rater)] == [1, 2]


async def test_changed_questions_are_asked_again_and_nothing_typed_is_lost(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=1)
    axis = {"name": "clarity", "question": "Clear?", "min": 1, "max": 5, "per": "best"}
    values = {"axes": [axis]}
    await session.execute(update(Project).where(Project.id == project.id).values(values))
    await session.commit()
    await page.locator("#rationale").evaluate("box => { box.closest('details').open = true; }")
    await page.fill("#rationale", "because")
    await page.locator(".card").first.focus()
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.get_by_text("Clear?")).to_be_visible()
    await expect(page.locator("#rationale")).to_have_value("because")
    await page.locator("input[name=axis-clarity][value='4']").check(force=True)
    await page.locator(".card").first.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".recap .badge")).to_be_visible()
    (ranking,) = await stored(session, rater)
    assert (ranking.axes, ranking.rationale) == ({"clarity": 4}, "because")


async def test_the_test_comes_first_and_tells_how_each_answer_compares(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=1, gold_rate=0)
    await prefetched(page)
    # The first task above came before the project asked for a test.
    await create_tasks(session, project, 2, candidates=4, gold=True, ranks=[1, 2, 3, 4])
    project.qualification_tasks = 2
    project.qualification_accuracy = 0.5
    await session.commit()
    for key in ("1", "1", "1", "1", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator("#workspace .notice")).to_contain_text("part of the test")
    for number in (1, 2):
        assignment = await page.get_attribute("#workspace", "data-assignment")
        for key in ("1", "1", "1", "1", "Enter"):
            await page.keyboard.press(key)
        await page.wait_for_selector(f"#workspace:not([data-assignment='{assignment}'])")
        await expect(page.locator(".feedback")).to_contain_text(f"answer {number} of 2")
        await expect(page.locator(".feedback")).to_contain_text("3 of 6 pairs right")
    await expect(page.locator(".feedback")).to_contain_text("You have passed")
    await expect(page.locator("#workspace .notice")).to_have_count(0)


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
    await expect(page.locator(".recap .badge")).to_be_visible()
    (ranking,) = await stored(session, rater)
    assert not ranking.surplus


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
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("B > A = C > D")
    (ranking,) = await stored(session, rater)
    assert ranking.ranks == {ids["B"]: 1, ids["A"]: 2, ids["C"]: 2, ids["D"]: 3}
    await phone.close()


async def test_without_a_bundle_the_modules_themselves_are_served(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    async def swap_script(route: Route) -> None:
        answer = await route.fetch()
        bundle = re.compile(r"/static/built/ranking\.js\?v=\w+")
        body, count = bundle.subn("/static/ranking/main.js", await answer.text())
        assert count == 1
        await route.fulfill(response=answer, body=body)

    project = await open_project(session, page, site, rater)
    await page.route(f"**/rate/{project.slug}", swap_script)
    await page.reload()
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("A > B > C > D")


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


def list_patterns(count: int) -> list[tuple[int, ...]]:
    """Every way of ordering `count` things with ties, as places without a gap."""
    every = product(range(1, count + 1), repeat=count)
    return [each for each in every if set(each) == set(range(1, max(each) + 1))]


def in_any_order(rankings: Iterable[dict[str, int]]) -> list[list[tuple[str, int]]]:
    """The same list however the rankings come."""
    return sorted(sorted(ranks.items()) for ranks in rankings)


def draw_patterns(count: int, number: int) -> list[tuple[int, ...]]:
    """Some of them, among them all equal and all different, either way round."""
    source = random.Random(count)
    drawn = [tuple(source.randint(1, count) for _ in range(count)) for _ in range(number - 3)]
    up = tuple(range(1, count + 1))
    return [up, up[::-1], (1,) * count, *drawn]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "patterns",
    [list_patterns(3), list_patterns(4), draw_patterns(9, 12)],
    ids=["all of 3", "all of 4", "some of 9"],
)
async def test_every_order_goes_from_the_page_through_the_database_into_the_export(
    session: AsyncSession,
    page: Page,
    site: Site,
    rater: User,
    tmp_path: Path,
    patterns: list[tuple[int, ...]],
) -> None:
    count = len(patterns[0])
    project = await open_project(session, page, site, rater, tasks=len(patterns), count=count)
    expected = []
    for number, pattern in enumerate(patterns, start=1):
        ids = await shown(page)
        used = sorted(set(pattern))
        expected.append(
            {
                ids[letter]: used.index(place) + 1
                for letter, place in zip("ABCDEFGHI", pattern, strict=False)
            }
        )
        assignment = await page.get_attribute("#workspace", "data-assignment")
        for place in pattern:
            await page.keyboard.press(str(place))
        await page.keyboard.press("Enter")
        if number < len(patterns):
            await page.wait_for_selector(f"#workspace:not([data-assignment='{assignment}'])")
    await expect(page.locator("#workspace .empty")).to_be_visible()
    # Two that follow each other within milliseconds may be stored in either order.
    assert in_any_order(ranking.ranks for ranking in await stored(session, rater)) == in_any_order(
        expected
    )
    whole = Split(train=1, validation=0, test=0)
    async with site.sessions() as fresh:
        await build_export(fresh, project, Filters(), whole, tmp_path / "export", "all")
    lines = (tmp_path / "export" / "rankings.train.jsonl").read_text().splitlines()
    exported = [each["ranks"] for line in lines for each in json.loads(line)["rankings"]]
    assert in_any_order(exported) == in_any_order(expected)
    pairs = (tmp_path / "export" / "comparisons.train.jsonl").read_text().splitlines()
    assert len(pairs) == sum(
        len({one, other}) == 2
        for ranks in expected
        for one, other in combinations(ranks.values(), 2)
    )


async def test_a_finger_drags_the_grip_and_scrolls_with_the_rest(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    phone = await browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = await phone.new_page()
    await open_project(session, page, site, rater)
    client = await phone.new_cdp_session(page)

    async def swipe(start: str, x: float, y: float) -> None:
        box = await page.locator(start).first.bounding_box()
        assert box
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        await client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        for step in range(1, 9):
            point = {
                "x": at["x"] + (x - at["x"]) * step / 8,
                "y": at["y"] + (y - at["y"]) * step / 8,
            }
            await client.send(
                "Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]}
            )
        await client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    slot = await page.locator(".slot[data-tier='2']").bounding_box()
    assert slot
    await swipe(".card[data-letter=A] .grip", slot["x"] + 10, slot["y"] + 20)
    await expect(page.locator(".slot[data-tier='2'] .chip:text-is('A')")).to_be_visible()
    rest = await page.locator(".slot[data-tier='0']").bounding_box()
    assert rest
    await swipe(".slot[data-tier='2'] .chip", rest["x"] + 10, rest["y"] + 20)
    await expect(page.locator("#order")).to_have_text("Nothing placed yet")
    await phone.close()


async def test_at_200_percent_and_from_right_to_left_nothing_is_cut_off(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    # A window of 1280 pixels at 200 % has 640 CSS pixels.
    zoomed = await browser.new_context(
        viewport={"width": 640, "height": 450}, device_scale_factor=2
    )
    page = await zoomed.new_page()
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}")
    texts = ["قال المعلم: الصبر مفتاح الفرج.", "שלום עולם", "plain", "a" * 300]
    await create_tasks(session, project, 1, candidates=texts, prompt="اكتب جملة قصيرة عن الصبر")
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await expect(page.locator(".card")).to_have_count(4)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 640
    directions = {}
    for block in await page.locator(".card .prose > p").all():
        text = await block.inner_text()
        directions[text[:5]] = await block.evaluate("each => getComputedStyle(each).direction")
    assert directions == {texts[0][:5]: "rtl", texts[1][:5]: "rtl", "plain": "ltr", "aaaaa": "ltr"}
    await expect(page.locator("#submit")).to_be_in_viewport()
    await zoomed.close()


async def test_a_pause_is_suggested_and_the_clock_stands_still_while_one_is_away(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await page.clock.install()
    await open_project(session, page, site, rater)
    await page.evaluate(
        "sessionStorage.setItem('session', JSON.stringify({stretch: 44 * 60 + 50}))"
    )
    for _ in range(3):
        await page.keyboard.press("j")
        await page.clock.run_for(5_000)
    await expect(page.locator("#told")).to_contain_text("45 minutes")
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator("#told .notice")).to_have_count(0)
    at = await page.inner_text("#timer")
    await page.clock.run_for(60_000)
    idle = await page.inner_text("#timer")
    await page.clock.run_for(300_000)
    assert await page.inner_text("#timer") == idle != at


async def test_text_can_be_selected_and_long_responses_unfold_by_key(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}")
    long = "\n\n".join(f"Paragraph {number} of a long answer." for number in range(40))
    await create_tasks(session, project, 1, candidates=[long, "short one", "x", "y"])
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    folded = page.locator(".card:has(.folded)")
    await expect(folded).to_have_count(1)
    await expect(page.locator(".unfold:visible")).to_have_count(1)  # the short ones offer nothing
    await folded.focus()
    await page.keyboard.press("x")
    await expect(page.locator(".folded")).to_have_count(0)
    await page.locator(".card:has-text('short one') .prose p").dblclick(position={"x": 12, "y": 12})
    assert await page.evaluate("getSelection().toString().trim()") in ("short", "one")


async def test_a_draft_outlives_its_lease(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(session, page, site, rater, tasks=1)
    await page.keyboard.press("2")
    await page.fill("#rationale", "half a thought")
    await expect(page.locator("#saved")).to_have_text("Draft saved")
    past = func.now() - func.make_interval(0, 0, 0, 0, 1)
    await session.execute(
        update(Assignment).where(Assignment.rater_id == rater.id).values(expires_at=past)
    )
    await session.commit()
    other = await create_user(session)
    found = await assign.lease_next_task(session, project, other)
    await session.commit()
    assert found is not None  # the slot is somebody else's now
    await page.fill("#rationale", "a whole thought")
    await expect(page.locator("#saved")).to_have_text("Draft saved")
    kept = await session.scalar(
        select(Assignment).where(Assignment.rater_id == rater.id),
        execution_options={"populate_existing": True},
    )
    assert kept is not None
    assert kept.draft is not None
    assert kept.draft["rationale"] == "a whole thought"
    for key in ("1", "2", "3", "4"):
        await page.click(f".card[data-letter={'ABCD'[int(key) - 1]}] [data-place='{key}']")
    await page.click("#submit")
    await expect(page.locator(".recap .badge")).to_be_visible()
    (ranking,) = await stored(session, rater)
    assert ranking.surplus
    assert ranking.rationale == "a whole thought"
