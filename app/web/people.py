"""Who is asking: what the shared page furniture may know of a person, whatever accounts holds."""

import uuid
from typing import Literal, Protocol

from fastapi import Request


class Person(Protocol):
    """The person behind a request, put on `request.state.person` by the accounts room."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def display_name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def csrf_token(self) -> str: ...
    @property
    def via(self) -> Literal["session", "token"]: ...


def is_admin(request: Request) -> bool:
    """Whether an admin asks: what others may not do is left out of their pages."""
    person = get_person(request)
    return person is not None and person.role == "admin"


def get_person(request: Request) -> Person | None:
    """The person behind the request, or None."""
    person: Person | None = getattr(request.state, "person", None)
    return person
