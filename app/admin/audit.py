"""The audit log: what was changed, by whom, and who signed in. Searched, read page by page, taken away."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts import queries
from app.accounts.guards import Admin, Session
from app.accounts.models import AuditEntry
from app.accounts.queries import AuditFilter
from app.db.engine import SessionMaker
from app.projects.models import Project
from app.projects.queries import list_projects_for
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50
BATCH = 1000
COLUMNS = ("id", "at", "who", "action", "subject", "detail")
# What a spreadsheet would take for a formula, though somebody only called a project so.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class AuditPage(PageContext):
    """What was changed, by whom."""

    entries: Sequence[AuditEntry]
    wanted: AuditFilter
    # The days as the form has them: the last one is a whole day.
    since: str
    until: str
    actions: Sequence[str]
    projects: Sequence[Project]
    # The filter as part of an address, and the entry that the next page begins before.
    query: str
    older_than: int | None
    filtered: bool
    first: bool


@dataclass(frozen=True)
class Asked:
    """The form of the filter, as the address has it."""

    who: str
    action: str
    project: str
    words: str
    since: str
    until: str

    @property
    def filter(self) -> AuditFilter:
        """What is asked for; a day that is none leaves out nothing."""
        since, until = _day(self.since), _day(self.until)
        return AuditFilter(
            who=self.who.strip(),
            action=self.action,
            project=self.project,
            words=self.words.strip(),
            since=since,
            before=until + timedelta(days=1) if until else None,
        )

    @property
    def query(self) -> str:
        """The part of an address that asks for the same."""
        return urlencode({name: value for name, value in vars(self).items() if value})


def _day(text: str) -> datetime | None:
    try:
        return datetime.combine(date.fromisoformat(text), time(), tzinfo=UTC)
    except ValueError:
        return None


Short = Annotated[str, Query(max_length=320)]


async def read_form(
    who: Short = "",
    action: Short = "",
    project: Short = "",
    words: Short = "",
    since: Short = "",
    until: Short = "",
) -> Asked:
    """The filter that an address asks for."""
    return Asked(who, action, project, words, since, until)


Form = Annotated[Asked, Depends(read_form)]


@router.get("/admin/audit")
async def audit(
    request: Request,
    session: Session,
    admin: Admin,
    asked: Form,
    older_than: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """The audit log, the newest first."""
    found = await queries.list_audit_entries(
        session, asked.filter, limit=PAGE_SIZE + 1, older_than=older_than
    )
    entries = found[:PAGE_SIZE]
    context = AuditPage(
        title="Audit log",
        entries=entries,
        wanted=asked.filter,
        since=asked.since,
        until=asked.until,
        actions=await queries.list_audit_actions(session),
        projects=await list_projects_for(session, admin),
        query=asked.query,
        older_than=entries[-1].id if len(found) > PAGE_SIZE else None,
        filtered=bool(asked.query),
        first=older_than is None,
    )
    return render(request, "accounts/audit.html", context)


@router.get("/admin/audit.csv")
async def audit_csv(request: Request, _: Admin, asked: Form) -> StreamingResponse:
    """All entries that the filter leaves, for a spreadsheet."""
    lines = _write_csv(request.app.state.sessions, asked.filter)
    headers = {"Content-Disposition": 'attachment; filename="audit-log.csv"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


async def _write_csv(sessions: SessionMaker, wanted: AuditFilter) -> AsyncIterator[str]:
    """The file, a batch at a time: any number of entries fits into memory."""
    yield _as_csv([COLUMNS])
    older_than: int | None = None
    while True:
        async with sessions() as session:
            found = await queries.list_audit_entries(
                session, wanted, limit=BATCH, older_than=older_than
            )
            yield _as_csv([_row(entry) for entry in found])
        if len(found) < BATCH:
            return
        older_than = found[-1].id


def _row(entry: AuditEntry) -> list[str]:
    detail = "; ".join(f"{name}: {value}" for name, value in entry.detail.items())
    who = entry.actor.email if entry.actor else ""
    at = entry.at.astimezone(UTC).isoformat(timespec="seconds")
    return [str(entry.id), at, *map(_harmless, (who, entry.action, entry.subject, detail))]


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _as_csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
