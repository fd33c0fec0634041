"""The desk: what must be on the screen is on it, however long the texts, however small the window."""

import uuid
from typing import Any, NamedTuple

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.rating.models import NoteKind, Ranking, TaskNote
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

# Width and height in CSS pixels, and device pixels to each: the last two are the first two at 200 %.
WINDOWS = {
    "wide": (1440, 900, 1),
    "laptop": (1280, 720, 1),
    "phone": (390, 844, 3),
    "wide at 200 %": (720, 450, 2),
    "laptop at 200 %": (640, 360, 2),
}


class Content(NamedTuple):
    """A task: how many responses of how many words, after a conversation of how many turns."""

    responses: int
    words: int
    turns: int


# Each of K = 2 to 9, the shortest and the longest texts with the shortest and the longest conversations.
CONTENTS = [
    *(Content(2, 1, 1), Content(2, 3000, 20), Content(3, 3000, 1), Content(4, 1, 20)),
    *(Content(5, 300, 5), Content(6, 1, 1), Content(7, 3000, 20), Content(8, 400, 3)),
    *(Content(9, 1, 20), Content(9, 3000, 1)),
]

MEASURE = """() => {
    const rect = (selector) => document.querySelector(selector).getBoundingClientRect();
    const parts = [".rate-head", "#prompt", ".cards-head", ".responses", ".bar"];
    const rects = Object.fromEntries(parts.map((part) => [part, rect(part)]));
    const found = [];
    for (const [name, each] of Object.entries(rects)) {
        const { top, bottom, left, right } = each;
        if (Math.min(top, left) < -0.5 || bottom > innerHeight + 0.5 || right > innerWidth + 0.5)
            found.push(`${name} leaves the window`);
    }
    for (const [one, a] of Object.entries(rects)) for (const [other, b] of Object.entries(rects)) {
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        if (one < other && high > 1 && wide > 1) found.push(`${one} covers ${other}`);
    }
    if (document.documentElement.scrollWidth > innerWidth) found.push("scrolls sideways");
    const on = (x, y, selector) => document.elementFromPoint(x, y)?.closest(selector);
    const button = rect("#submit");
    if (on((button.left + button.right) / 2, (button.top + button.bottom) / 2, "#submit") === null)
        found.push("Submit is covered or out of the window");
    const desk = rects[".responses"];
    const lines = [...document.querySelectorAll(".card .text .prose")].filter((prose) => {
        const text = prose.getBoundingClientRect();
        const body = prose.closest(".card-body").getBoundingClientRect();
        const top = Math.max(text.top, desk.top, body.top);
        const bottom = Math.min(text.bottom, desk.bottom, body.bottom);
        const isHigh = bottom - top >= Math.min(text.height, 40) - 1;
        if (!isHigh || text.left >= desk.right || text.right <= desk.left) return false;
        return on(text.left + 6, (top + bottom) / 2, ".text") !== null;
    });
    if (!lines.length) found.push("no response's text is to be seen");
    const asked = [...document.querySelectorAll("#prompt > .turn")].at(-1).getBoundingClientRect();
    const pane = rects["#prompt"];
    if (Math.min(asked.bottom, pane.bottom) - asked.top < 24 || asked.top < pane.top - 1)
        found.push("what was asked last is not in view");
    return found;
}"""


def write(words: int, number: int) -> str:
    """A text of so many words, in paragraphs, unlike the others."""
    each = [f"word{number}{n % 7}" for n in range(words)]
    return "\n\n".join(" ".join(each[start : start + 80]) for start in range(0, words, 80))


def talk(turns: int) -> list[dict[str, str]]:
    """A conversation that ends with the user's turn; an even number begins with the assistant's."""
    roles = ["user" if (turns - number) % 2 == 0 else "assistant" for number in range(1, turns + 1)]
    return [{"role": role, "content": write(30, number)} for number, role in enumerate(roles)]


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    rater = await create_user(session, password=PASSWORD)
    await session.commit()
    session.expunge(rater)
    return rater


async def prepare(session: AsyncSession, content: Content) -> str:
    """A project with one such task; its slug."""
    slug = f"p-{uuid.uuid4().hex[:8]}"
    project = await create_project(
        session, slug=slug, candidates_per_task=content.responses, gold_rate=0
    )
    texts = [write(content.words, number) for number in range(content.responses)]
    await create_tasks(session, project, 1, candidates=texts, prompt=talk(content.turns))
    await session.commit()
    return slug


async def test_submit_and_a_response_are_in_view_and_nothing_is_covered(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await sign_in(page, site, rater.email)
    client = await page.context.new_cdp_session(page)
    found = []
    for content in CONTENTS:
        slug = await prepare(session, content)
        await page.goto(f"{site.address}/rate/{slug}")
        await expect(page.locator(".card")).to_have_count(content.responses)
        for name, (width, height, scale) in WINDOWS.items():
            screen = {"width": width, "height": height, "deviceScaleFactor": scale}
            await client.send("Emulation.setDeviceMetricsOverride", {**screen, "mobile": False})
            await page.wait_for_function(f"innerWidth === {width} && innerHeight === {height}")
            found += [f"{content} {name}: {each}" for each in await page.evaluate(MEASURE)]
    assert found == []


async def open_desk(
    session: AsyncSession, page: Page, site: Site, rater: User, texts: list[str], **more: Any
) -> None:
    """A project with two tasks of these responses, and its ranking page."""
    slug = f"p-{uuid.uuid4().hex[:8]}"
    project = await create_project(
        session, slug=slug, candidates_per_task=len(texts), gold_rate=0, **more
    )
    await create_tasks(session, project, 2, candidates=texts)
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{slug}")
    await expect(page.locator(".card")).to_have_count(len(texts))


def card(page: Page, letter: str) -> Locator:
    return page.locator(f".card[data-letter={letter}]")


async def test_a_key_brings_a_response_on_the_screen_before_it_ranks_it(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, [write(300, n) for n in range(6)])
    await page.evaluate("document.querySelector('.responses').scrollTop = 10_000")
    await expect(card(page, "A").locator(".prose")).not_to_be_in_viewport()
    await page.keyboard.press("2")
    await expect(page.locator("#announcer")).to_contain_text("Response A was not on the screen")
    await expect(card(page, "A").locator(".prose")).to_be_in_viewport()
    await expect(page.locator("#order")).to_have_text("Nothing placed yet")
    await page.keyboard.press("2")
    await expect(page.locator("#order")).to_have_text("A")


async def test_each_card_has_its_own_height_and_keeps_its_column(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, [write(1, 0), *(write(400, n) for n in (1, 2, 3))])

    async def place() -> dict[str, tuple[float, float, float]]:
        rows = await page.locator(".card").evaluate_all(
            """cards => cards.map(card => [card.dataset.letter, card.offsetLeft, card.offsetTop,
                                          card.offsetHeight])"""
        )
        return {letter: (left, top, height) for letter, left, top, height in rows}

    before = await place()
    heights = sorted(height for _, _, height in before.values())
    assert heights[0] < heights[1] / 2
    for upper, lower in (("A", "C"), ("B", "D")):
        gap = before[lower][1] - before[upper][1] - before[upper][2]
        assert before[lower][0] == before[upper][0]
        assert 8 <= gap <= 20
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    after = await place()
    assert {letter: left for letter, (left, _, _) in after.items()} == {
        letter: left for letter, (left, _, _) in before.items()
    }
    assert {letter for letter in after if after[letter][1] != before[letter][1]} <= {"D"}


async def test_one_response_at_a_time_by_arrows_and_the_choice_stays(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, [write(900, n) for n in range(8)])
    await page.keyboard.press("r")
    await expect(page.locator(".folded .text-end")).to_have_count(8)
    for letter in "ABC":
        await expect(card(page, letter)).to_be_in_viewport(ratio=0.9)
        await expect(page.locator(".jump[aria-current]")).to_have_text(letter)
        beside = await page.locator(".card").evaluate_all(
            """cards => cards.filter(card => {
                const row = card.parentElement.getBoundingClientRect();
                const { left, right } = card.getBoundingClientRect();
                return left < row.right - 2 && right > row.left + 2;
            }).length"""
        )
        assert beside == 1
        await page.keyboard.press("ArrowRight")
    # A place takes the reader on to the next response without one; places are seen on the letters.
    await page.keyboard.press("1")
    await expect(page.locator(".jump:has-text('D')")).to_have_attribute("data-place", "1")
    await expect(card(page, "A")).to_be_in_viewport(ratio=0.9)
    await page.reload()
    await expect(page.locator(".cards[data-mode=one]")).to_be_visible()
    await page.locator(".jump:has-text('H')").click()
    await expect(card(page, "H")).to_be_in_viewport(ratio=0.9)
    await page.get_by_role("button", name="All", exact=True).click()
    await expect(page.locator(".cards[data-mode=all]")).to_be_visible()


async def test_two_side_by_side_and_the_best_stays(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, [write(900, n) for n in range(4)])
    await page.keyboard.press("c")

    async def sides() -> list[str]:
        found = await page.locator(".card:visible").all()
        boxes = [
            (await each.bounding_box(), await each.get_attribute("data-letter")) for each in found
        ]
        return [
            str(letter)
            for box, letter in sorted(boxes, key=lambda each: each[0]["x"] if each[0] else 0)
        ]

    assert await sides() == ["A", "B"]
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    assert await sides() == ["A", "C"]
    await page.keyboard.press(
        "1"
    )  # C is the best now: it stays, and the next without a place stands beside it
    assert await sides() == ["C", "A"]
    await page.keyboard.press("j")
    await page.keyboard.press("p")  # B, whatever its place
    await expect(page.locator("#announcer")).to_have_text("Response B stays beside the others")
    await page.keyboard.press("k")
    assert await sides() == ["B", "A"]
    await card(page, "A").locator(".card-body").evaluate("body => { body.scrollTop = 400; }")
    assert await card(page, "B").locator(".card-body").evaluate("body => body.scrollTop") == 0
    await page.keyboard.press("c")
    assert len(await sides()) == 4


async def test_a_phone_shows_one_response_by_swipe_and_makes_room_for_it(
    session: AsyncSession, browser: Browser, site: Site, rater: User
) -> None:
    phone = await browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = await phone.new_page()
    await open_desk(session, page, site, rater, [write(700, n) for n in range(4)])
    client = await phone.new_cdp_session(page)

    async def swipe(x: float, y: float) -> None:
        speed = {"x": 200, "y": 500, "xDistance": x, "yDistance": y, "speed": 3000}
        await client.send("Input.synthesizeScrollGesture", speed)

    await swipe(-300, 0)
    await expect(card(page, "B")).to_be_in_viewport(ratio=0.9)
    await expect(page.locator(".jump[aria-current]")).to_have_text("B")
    await expect(page.locator(".rate-head")).to_be_visible()
    high = await card(page, "B").evaluate("card => card.offsetHeight")
    await swipe(0, -400)
    await expect(page.locator(".rate-head")).to_be_hidden()
    assert await card(page, "B").evaluate("card => card.offsetHeight") > high + 60
    await page.tap(".prompt-toggle")
    await expect(page.locator("#prompt .turn .prose")).to_be_in_viewport(ratio=1)
    await page.tap(".prompt-toggle")
    await swipe(0, 2000)
    await expect(page.locator(".rate-head")).to_be_visible()
    await phone.close()


async def test_digits_speak_to_the_field_that_has_the_focus_and_ctrl_enter_submits_from_a_dialog(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    axes = [
        {"name": "true", "question": "Is it true?", "min": 1, "max": 5, "per": "response"},
        {"name": "unsafe", "question": "Unsafe", "min": 0, "max": 1, "per": "response"},
    ]
    await open_desk(session, page, site, rater, ["one", "two", "three"], axes=axes)
    ids = await page.locator(".card").evaluate_all("cards => cards.map(c => c.dataset.candidate)")
    await card(page, "B").locator(".scale input").first.focus()
    await page.keyboard.press("4")
    await expect(page.locator("#order")).to_have_text("Nothing placed yet")
    await page.keyboard.press("9")  # no such score
    await card(page, "C").get_by_label("Unsafe").check()  # a flag of this response
    await page.reload()
    await expect(card(page, "C").get_by_label("Unsafe")).to_be_checked()
    await card(page, "A").focus()
    for key in ("1", "2", "3"):
        await page.keyboard.press(key)
    await page.keyboard.press("g")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("A > B > C")
    await expect(page.locator("dialog[open]")).to_have_count(0)
    ranking = (await session.scalars(select(Ranking).where(Ranking.rater_id == rater.id))).one()
    assert ranking.axes == {"true": {ids[1]: 4}, "unsafe": {ids[2]: 1}}
    assert sorted(map(str, ranking.seen or [])) == sorted(ids)


async def test_a_task_is_put_off_by_a_key_and_comes_back_with_what_was_put_down(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, ["one", "two", "three"])
    first = await page.get_attribute("#workspace", "data-assignment")
    await page.keyboard.press("2")
    await page.keyboard.press("l")
    other = page.locator(f"#workspace[data-assignment]:not([data-assignment='{first}'])")
    await expect(other).to_be_visible()
    for key in ("1", "2", "3", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(f"#workspace[data-assignment='{first}']")).to_be_visible()
    await expect(page.locator("#order")).to_have_text("A")


async def test_admins_are_told_what_is_the_matter_and_the_task_stays(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_desk(session, page, site, rater, ["one", "two", "three"])
    assignment = await page.get_attribute("#workspace", "data-assignment")
    await page.keyboard.press("m")
    await page.get_by_label("Something of it is broken or missing").check()
    await page.get_by_label("In your words").fill("The picture is not there")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#announcer")).to_have_text("The admins have your note")
    found = (await session.scalars(select(TaskNote).where(TaskNote.rater_id == rater.id))).one()
    assert (found.kind, found.text) == (NoteKind.BROKEN, "The picture is not there")
    assert await page.get_attribute("#workspace", "data-assignment") == assignment
    await expect(page.locator("#order")).to_have_text("Nothing placed yet")


async def test_where_a_project_asks_for_it_each_response_is_seen_to_its_end_first(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    texts = [write(700, number) for number in range(3)]
    await open_desk(session, page, site, rater, texts, require_seen=True)
    for key in ("1", "2", "3", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator("#saved")).to_have_text(
        "Look at each response to its end first: A, B, C"
    )
    for letter in "ABC":
        await card(page, letter).focus()
        await page.keyboard.press("x")
        await (
            card(page, letter)
            .locator(".text-end")
            .evaluate("end => end.scrollIntoView({ block: 'center' })")
        )
        await expect(page.locator(f".jump.seen:has-text('{letter}')")).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page.locator(".recap:has(.badge) .order")).to_have_text("A > B > C")
    ranking = (await session.scalars(select(Ranking).where(Ranking.rater_id == rater.id))).one()
    assert ranking.seen is not None
    assert len(ranking.seen) == 3
