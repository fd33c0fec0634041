"""Which route answers an address never depends on the order of the routers, nor on a project's slug."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.main import ROUTERS
from app.projects.service import RESERVED_SLUGS
from app.web import health
from tests.factories.accounts import bearer, create_user

SLUG = "{slug}"


@dataclass(frozen=True)
class Address:
    """One route: in which router, at which place there, and the segments of its path."""

    router: int
    index: int
    method: str
    segments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} /{'/'.join(self.segments)}"

    def meets(self, other: "Address") -> bool:
        """Whether some request fits both."""
        return (self.method, len(self.segments)) == (other.method, len(other.segments)) and all(
            one == two or "{" in one + two
            for one, two in zip(self.segments, other.segments, strict=True)
        )

    def covers(self, other: "Address") -> bool:
        """Whether every request that fits the other one fits this one too."""
        return self.meets(other) and all(
            "{" in one or one == two for one, two in zip(self.segments, other.segments, strict=True)
        )


def list_addresses(routers: Sequence[APIRouter]) -> list[Address]:
    return [
        Address(number, index, method, tuple(route.path.strip("/").split("/")))
        for number, router in enumerate(routers)
        for index, route in enumerate(router.routes)
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]


def find_reserved(addresses: Sequence[Address]) -> set[str]:
    """The words that stand where another address, the same up to there, has a project's slug."""
    before_slug = {
        each.segments[: each.segments.index(SLUG)] for each in addresses if SLUG in each.segments
    }
    return {
        each.segments[len(start)]
        for each in addresses
        for start in before_slug
        if each.segments[: len(start)] == start and len(each.segments) > len(start)
    } - {SLUG}


def find_clashes(routers: Sequence[APIRouter], reserved: frozenset[str]) -> Iterator[str]:
    """Pairs of routes between which the order of the routers, or a project's slug, would decide."""
    addresses = list_addresses(routers)
    for number, one in enumerate(addresses):
        for two in addresses[number + 1 :]:
            if not one.meets(two):
                continue
            pairs = [set(pair) for pair in zip(one.segments, two.segments, strict=True)]
            if one.router != two.router:
                yield f"{one} and {two} stand in two routers"
            elif one.covers(two):
                yield f"{one} hides {two}"
            elif not any(SLUG in pair and pair & reserved for pair in pairs):
                yield f"{one} and {two} differ in no reserved slug"


def test_no_address_has_two_answers() -> None:
    assert list(find_clashes((health.router, *ROUTERS), RESERVED_SLUGS)) == []


def test_the_reserved_slugs_are_those_of_the_routes() -> None:
    assert find_reserved(list_addresses(ROUTERS)) == RESERVED_SLUGS


def test_a_clash_would_be_found() -> None:
    pages, more = APIRouter(), APIRouter()
    pages.get("/rate/{slug}")(lambda: None)
    pages.get("/rate/mine")(lambda: None)
    more.get("/rate/next")(lambda: None)
    assert list(find_clashes([pages, more], frozenset({"mine", "next"}))) == [
        "GET /rate/{slug} hides GET /rate/mine",
        "GET /rate/{slug} and GET /rate/next stand in two routers",
    ]
    right = APIRouter()
    right.get("/rate/mine")(lambda: None)
    right.get("/rate/{slug}")(lambda: None)
    assert list(find_clashes([right], frozenset({"mine"}))) == []
    assert list(find_clashes([right], frozenset())) == [
        "GET /rate/mine and GET /rate/{slug} differ in no reserved slug"
    ]
    assert find_reserved(list_addresses([pages, more])) == {"mine", "next"}


@pytest.mark.parametrize("slug", sorted(RESERVED_SLUGS))
async def test_a_reserved_slug_is_refused_by_page_and_api(
    client: httpx.AsyncClient, session: AsyncSession, slug: str
) -> None:
    headers = await bearer(session, await create_user(session, Role.ADMIN))
    answer = await client.post(
        "/api/v1/projects", headers=headers, json={"slug": slug, "name": "P"}
    )
    assert (answer.status_code, answer.json()["place"]) == (422, "slug")
    form = {
        **{"slug": slug, "name": "P", "candidates_per_task": "4", "overlap": "1"},
        **{"temperature": "1", "top_p": "1", "max_new_tokens": "64"},
    }
    page = await client.post("/admin/projects/new", headers=headers, data=form)
    assert page.status_code == 422
    assert "is the address of a page" in page.text
    fine = await client.post(
        "/admin/projects/new", headers=headers, data={**form, "slug": f"{slug}-2"}
    )
    assert fine.headers["location"] == f"/admin/projects/{slug}-2/prompts"


def test_an_address_tells_the_room_of_its_route() -> None:
    """The API in api.py; /admin and /research in their faces; every other page in a pages.py."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            module, start = route.endpoint.__module__, route.path.split("/")[1]
            wanted = {
                "api": r"app\.\w+\.api",
                "admin": r"app\.admin\.\w+",
                "research": r"app\.research\.\w+",
            }.get(start, r"app\.\w+\.pages")
            assert re.fullmatch(wanted, module), (route.path, module)
