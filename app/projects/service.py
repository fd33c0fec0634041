"""Making projects and changing what they ask."""

import uuid
from collections.abc import Sequence

from sqlalchemy import delete, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Kind, User
from app.accounts.queries import get_user_by_email
from app.accounts.service import record
from app.errors import Conflict, InvalidInput, NotFound
from app.projects import queries
from app.projects.models import Guideline, Membership, Project
from app.projects.schemas import ProjectIn

# Words that stand where an address has a project's slug (/rate/history beside /rate/{slug}): a project of
# that name could not be reached. A test holds them against the routes.
RESERVED_SLUGS = frozenset({"assignments", "history", "new"})


async def get_project(session: AsyncSession, slug: str) -> Project:
    """The project of this slug. Raises NotFound."""
    project = await queries.find_project(session, slug)
    if project is None:
        raise no_such_project(slug)
    return project


async def get_project_for(session: AsyncSession, viewer: User, slug: str) -> Project:
    """The project, for somebody who sees it. To others it is not there: raises NotFound."""
    project = await queries.find_project_for(session, viewer, slug)
    if project is None:
        raise no_such_project(slug)
    return project


def no_such_project(slug: str) -> NotFound:
    """What is said of a project that is not there, or that whoever asks does not see."""
    return NotFound(f"There is no project {slug!r}", field="slug")


async def create_project(
    session: AsyncSession, wanted: ProjectIn, *, actor: uuid.UUID | None = None
) -> Project:
    """A new project, its guidelines as version 1.

    Raises Conflict where the slug is taken, InvalidInput where a page has its address. Its policies are
    attached by the policies room, which knows this one.
    """
    if wanted.slug in RESERVED_SLUGS:
        raise InvalidInput(
            f"{wanted.slug!r} is the address of a page: choose another", field="slug"
        )
    if await queries.find_project(session, wanted.slug) is not None:
        raise Conflict(f"There is already a project {wanted.slug!r}", field="slug")
    values: dict[str, object] = wanted.model_dump(exclude={"guidelines", "policies"})
    project = Project(**values)
    session.add(project)
    await session.flush()
    await record(session, actor, "project.create", wanted.slug)
    if wanted.guidelines:
        await publish_guidelines(session, project, wanted.guidelines, actor=actor)
    return project


async def publish_guidelines(
    session: AsyncSession, project: Project, text: str, *, actor: uuid.UUID | None = None
) -> Guideline:
    """A new version of the guidelines; the earlier ones stay as they were."""
    locked = await queries.get_project_for_update(session, project.id)
    locked.guideline_version += 1
    guideline = Guideline(
        project_id=locked.id, version=locked.guideline_version, text=text, created_by=actor
    )
    session.add(guideline)
    await record(
        session, actor, "guidelines.publish", locked.slug, version=locked.guideline_version
    )
    await session.flush()
    return guideline


async def set_paused(
    session: AsyncSession, project: Project, paused: bool, *, actor: uuid.UUID | None = None
) -> None:
    """Stop handing out tasks and writing candidates, or go on."""
    project.paused = paused
    await record(session, actor, "project.pause" if paused else "project.resume", project.slug)


# What may be changed later. The slug stays: addresses and programs rely on it.
CHANGEABLE = (
    *("name", "description", "candidates_per_task", "overlap", "lease_seconds", "edit_seconds"),
    *("gold_rate", "qualification_tasks", "qualification_accuracy"),
    *("first_view", "require_seen", "show_gold_results", "axes", "flags", "sampling"),
)


async def find_person(session: AsyncSession, address: str) -> User:
    """The person with this address. Raises NotFound."""
    person = await get_user_by_email(session, address)
    if person is None:
        raise NotFound(
            f"There is nobody with the address {address}: invite them first", field="addresses"
        )
    return person


async def add_members(
    session: AsyncSession,
    project: Project,
    people: Sequence[User],
    *,
    actor: uuid.UUID | None = None,
) -> None:
    """Let these people see the project, whether it is open or closed. Doing it twice changes nothing."""
    for person in people:
        if person.kind is not Kind.PERSON:
            raise InvalidInput(f"{person.display_name} is nobody who signs in", field="member")
        added = await session.scalar(
            insert(Membership)
            .values(project_id=project.id, user_id=person.id)
            .on_conflict_do_nothing()
            .returning(Membership.user_id)
        )
        if added is not None:
            await record(session, actor, "project.member.add", project.slug, person=person.email)


async def remove_member(
    session: AsyncSession, project: Project, person: User, *, actor: uuid.UUID | None = None
) -> None:
    """Let a person see a closed project no more. What they ranked stays; what they hold runs out."""
    removed = await session.scalar(
        delete(Membership)
        .where(Membership.project_id == project.id, Membership.user_id == person.id)
        .returning(Membership.user_id)
    )
    if removed is None:
        raise NotFound(f"{person.email} is no member of this project", field="member")
    await record(session, actor, "project.member.remove", project.slug, person=person.email)


async def set_members_only(
    session: AsyncSession, project: Project, closed: bool, *, actor: uuid.UUID | None = None
) -> None:
    """Close the project to all but its members, or open it to everybody who is signed in.

    Whoever sees it at the moment when it is closed is a member from then on: nobody is shut out in the
    middle of their work by a switch. Who shall not see it is taken out by name.
    """
    if closed == project.members_only:
        return
    if closed:
        everybody = select(literal(project.id), User.id).where(User.kind == Kind.PERSON)
        await session.execute(
            insert(Membership)
            .from_select(["project_id", "user_id"], everybody)
            .on_conflict_do_nothing()
        )
    project.members_only = closed
    await session.flush()
    await record(session, actor, "project.close" if closed else "project.open", project.slug)


async def update_project(
    session: AsyncSession, project: Project, wanted: ProjectIn, *, actor: uuid.UUID | None = None
) -> None:
    """Change a project's settings. Tasks that are open already keep their overlap and candidates.

    Guidelines that differ from the newest version become the next one.
    """
    values = wanted.model_dump()
    changed = [name for name in CHANGEABLE if getattr(project, name) != values[name]]
    for name in changed:
        setattr(project, name, values[name])
    if changed:
        await record(session, actor, "project.change", project.slug, fields=changed)
    newest = await queries.get_guideline(session, project.id, project.guideline_version)
    if wanted.guidelines and (newest is None or newest.text != wanted.guidelines):
        await publish_guidelines(session, project, wanted.guidelines, actor=actor)
    await session.flush()
