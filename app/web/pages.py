"""Small helpers that pages share: forms, redirects, pagination."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Generic, TypeVar
from urllib.parse import quote

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from app.web.templates import NOTICE_COOKIE

Row = TypeVar("Row")
# Its offset has to fit PostgreSQL's bigint, whatever an address says.
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class PageOf(Generic[Row]):
    """Some rows of a longer list. Pages count from 1."""

    rows: Sequence[Row]
    page: int
    total: int
    size: int = 50

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return max(1, ceil(self.total / self.size))

    @property
    def first(self) -> int:
        """The number of the first row shown, from 1; 0 where there is none."""
        return (self.page - 1) * self.size + 1 if self.rows else 0

    @property
    def last(self) -> int:
        """The number of the last row shown."""
        return (self.page - 1) * self.size + len(self.rows)


def is_htmx(request: Request) -> bool:
    """Whether htmx asks, for a fragment rather than a page."""
    return "hx-request" in request.headers


def see_other(request: Request, address: str, *, notice: str | None = None) -> Response:
    """Go on to another page after a form, with a sentence for it to show once."""
    response: Response
    if is_htmx(request):
        response = Response(status_code=204, headers={"HX-Redirect": address})
    else:
        response = RedirectResponse(address, status_code=303)
    if notice:
        response.set_cookie(NOTICE_COOKIE, quote(notice), max_age=60, httponly=True, samesite="lax")
    return response
