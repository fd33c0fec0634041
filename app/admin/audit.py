"""The audit log: what was changed, by whom, and who signed in."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from app.accounts import queries
from app.accounts.guards import Admin, Session
from app.accounts.models import AuditEntry
from app.web.pages import PageNumber, PageOf
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class AuditPage(PageContext):
    """What was changed, by whom."""

    entries: PageOf[AuditEntry]


@router.get("/admin/audit")
async def audit(request: Request, session: Session, _: Admin, page: PageNumber = 1) -> Response:
    """The audit log, the newest first."""
    size = 50
    rows = await queries.list_audit_entries(session, limit=size, offset=(page - 1) * size)
    total = await queries.count_audit_entries(session)
    context = AuditPage(title="Audit log", entries=PageOf(rows, page, total, size))
    return render(request, "accounts/audit.html", context)
