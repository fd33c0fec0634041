"""What was fetched ahead is held against what holds when its turn comes; a ranking is of its screen."""

import re

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.projects.models import Project
from app.projects.service import publish_guidelines
from app.rating import assign
from app.rating.models import (
    Assignment,
    AssignmentState,
    Qualification,
    QualificationState,
    Ranking,
    Task,
)
from app.rating.qualification import read_guidelines
from tests.factories.accounts import bearer, create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

CLARITY = {"name": "clarity", "question": "", "min": 1, "max": 5, "per": "best"}


@pytest.fixture
async def project(session: AsyncSession) -> Project:
    project = await create_project(session, guidelines="Be fair.", axes=[CLARITY])
    await create_tasks(session, project, 4, candidates=3)
    return project


@pytest.fixture
async def rater(session: AsyncSession, project: Project) -> User:
    rater = await create_user(session)
    await read_guidelines(session, project, rater, 1)
    return rater


class Tab:
    """What a browser's tab does: the form on the screen, submitted, and the next task fetched ahead."""

    def __init__(self, client: httpx.AsyncClient, project: Project, token: str) -> None:
        self.client, self.token = client, token
        self.address = f"/rate/{project.slug}"
        self.page = ""

    def field(self, name: str, page: str | None = None) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', page or self.page)
        assert found, name
        return found[1]

    @property
    def assignment(self) -> str | None:
        found = re.search(r'data-assignment="([^"]+)"', self.page)
        return found and found[1]

    async def post(self, address: str, **form: str) -> httpx.Response:
        return await self.client.post(
            address,
            data={"csrf_token": self.token, **form},
            headers={"accept": "application/json"},
            follow_redirects=False,
        )

    async def take(self) -> None:
        self.page = (await self.post(f"{self.address}/next")).text

    async def prefetch(self) -> httpx.Response:
        assert self.assignment
        shown = {name: self.field(name) for name in ("guideline_version", "questions")}
        return await self.post(f"{self.address}/prefetch", current=self.assignment, **shown)

    async def submit(self, **more: str) -> httpx.Response:
        names = re.findall(r'<select name="(rank-[^"]+)"', self.page)
        ranks = {name: str(rank) for rank, name in enumerate(names, 1)}
        shown = {name: self.field(name) for name in ("guideline_version", "questions")}
        return await self.post(f"/rate/assignments/{self.assignment}", **ranks, **shown, **more)

    async def two_tasks(self) -> str:
        """A task on the screen; the one after it as it was fetched."""
        await self.take()
        ahead = await self.prefetch()
        assert ahead.status_code == 200
        assert "plackett-replaces" not in ahead.headers
        return ahead.text


@pytest.fixture
async def tab(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, rater: User
) -> Tab:
    return Tab(client, project, await sign_in(client, session, rater))


async def assignment_of(session: AsyncSession, tab: Tab) -> Assignment:
    return await session.get_one(Assignment, tab.assignment, populate_existing=True)


async def test_new_guidelines_come_before_a_task_fetched_under_the_old_ones(
    session: AsyncSession, project: Project, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    await publish_guidelines(session, project, "Be kind.")
    # The task in hand is finished under what was on the screen, and says so.
    assert (await tab.submit()).status_code == 200
    stored = await session.scalar(select(Ranking))
    assert stored is not None
    assert stored.guideline_version == 1
    tab.page = ahead
    second = tab.assignment
    answer = await tab.prefetch()
    assert answer.headers["plackett-replaces"] == second
    assert "Be kind." in answer.text
    assert "data-assignment" not in answer.text
    assert (await assignment_of(session, tab)).prefetched
    await tab.post(f"{tab.address}/guidelines", version="2")
    await tab.take()
    assert tab.assignment == second
    assert tab.field("guideline_version") == "2"
    assert (await tab.submit()).status_code == 200
    versions = await session.scalars(select(Ranking.guideline_version).order_by(Ranking.id))
    assert list(versions) == [1, 2]


async def test_what_was_submitted_before_the_new_rules_came_is_of_the_old_ones(
    session: AsyncSession, project: Project, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    await tab.submit()
    await publish_guidelines(session, project, "Be kind.")
    tab.page = ahead  # shown at once, and ranked before the server was asked
    assert (await tab.submit()).status_code == 200
    versions = await session.scalars(select(Ranking.guideline_version).order_by(Ranking.id))
    assert list(versions) == [1, 1]


async def test_changed_questions_are_shown_and_never_answered_by_the_old_ones(
    session: AsyncSession, project: Project, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    await tab.submit(**{"axis-clarity": "5"})
    wider = [{**CLARITY, "max": 7}]
    await session.execute(update(Project).where(Project.id == project.id).values(axes=wider))
    tab.page = ahead
    # 5 of 5 is not 5 of 7.
    refused = await tab.submit(**{"axis-clarity": "5"})
    assert refused.status_code == 409
    assert refused.json()["place"] == "questions"
    assert (await assignment_of(session, tab)).state is AssignmentState.LEASED
    answer = await tab.prefetch()
    assert answer.headers["plackett-replaces"] == tab.assignment
    tab.page, second = answer.text, tab.assignment
    assert tab.assignment == second
    assert (await tab.submit(**{"axis-clarity": "7"})).status_code == 200
    scores = await session.scalars(select(Ranking.axes).order_by(Ranking.id))
    assert list(scores) == [{"clarity": 5.0}, {"clarity": 7.0}]


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"paused": True}, "The project is paused"),
        ({"qualification_tasks": 2}, "Nothing is left for you here"),
    ],
)
async def test_a_shut_gate_gives_back_what_was_fetched_ahead(
    session: AsyncSession, project: Project, tab: Tab, gate: dict[str, object], said: str
) -> None:
    ahead = await tab.two_tasks()
    await tab.submit()
    await session.execute(update(Project).where(Project.id == project.id).values(**gate))
    tab.page = ahead
    answer = await tab.prefetch()
    assert answer.headers["plackett-replaces"] == tab.assignment
    assert said in answer.text
    held = await assignment_of(session, tab)
    assert (held.state, held.prefetched, held.slot) == (AssignmentState.EXPIRED, False, None)
    task = await session.get_one(Task, held.task_id, populate_existing=True)
    assert task.open_slots == task.overlap
    # What was ranked before the page knew of it is kept all the same.
    assert (await tab.submit()).status_code == 200


async def test_a_test_that_was_failed_since_is_told(
    session: AsyncSession, project: Project, rater: User, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    await tab.submit()
    values = {"qualification_tasks": 1}
    await session.execute(update(Project).where(Project.id == project.id).values(**values))
    failed = QualificationState.FAILED
    session.add(Qualification(project_id=project.id, rater_id=rater.id, state=failed))
    await session.flush()
    tab.page = ahead
    answer = await tab.prefetch()
    assert "plackett-replaces" in answer.headers
    assert "Thank you for taking the test" in answer.text


async def test_a_task_that_asks_fewer_by_now_is_not_gone_on_with(
    session: AsyncSession, project: Project, rater: User, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    tab.page = ahead
    held = await assignment_of(session, tab)
    await session.execute(
        update(Task).where(Task.id == held.task_id).values(overlap=0, open_slots=0)
    )
    await session.execute(
        update(Assignment)
        .where(Assignment.rater_id == rater.id, Assignment.prefetched.is_(False))
        .values(state="skipped", slot=None)
    )
    answer = await tab.prefetch()
    assert answer.headers["plackett-replaces"] == tab.assignment
    assert f'data-assignment="{tab.assignment}"' not in answer.text
    assert (await assignment_of(session, tab)).state is AssignmentState.EXPIRED


async def test_who_is_no_rater_any_more_goes_on_with_nothing(
    session: AsyncSession, rater: User, tab: Tab
) -> None:
    ahead = await tab.two_tasks()
    await tab.submit()
    await session.execute(update(User).where(User.id == rater.id).values(role=Role.RESEARCHER))
    session.expire_all()
    tab.page = ahead
    assert (await tab.prefetch()).status_code == 403
    assert (await assignment_of(session, tab)).prefetched


async def test_programs_send_back_what_they_were_given(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, rater: User
) -> None:
    headers = await bearer(session, rater)
    lease = (
        await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    ).json()
    assert lease["guideline_version"] == 1
    ranks = {each["id"]: 1 for each in lease["candidates"]}
    address = f"/api/v1/assignments/{lease['id']}/ranking"
    await publish_guidelines(session, project, "Be kind.")

    async def put(**more: object) -> httpx.Response:
        return await client.put(address, headers=headers, json={"ranks": ranks, **more})

    assert (await put(questions="others")).status_code == 409
    assert (await put(guideline_version=3)).status_code == 422
    assert (await put(questions=lease["questions"], guideline_version=1)).status_code == 200
    stored = await session.scalar(select(Ranking))
    assert stored is not None
    assert stored.guideline_version == 1


async def test_a_held_task_handed_out_again_is_under_the_newest_guidelines(
    session: AsyncSession, project: Project, rater: User
) -> None:
    first = await assign.lease_next_task(session, project, rater)
    await publish_guidelines(session, project, "Be kind.")
    await session.refresh(project)
    again = await assign.lease_next_task(session, project, rater)
    assert first is not None
    assert again is not None
    assert (again.assignment_id, first.guideline_version) == (first.assignment_id, 1)
    assert again.guideline_version == 2
    held = await session.get_one(Assignment, again.assignment_id, populate_existing=True)
    assert held.guideline_version == 2
