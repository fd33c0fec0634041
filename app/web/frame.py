"""What stands around an admin's or a researcher's page: the projects they see, and which one it is of."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request


@dataclass(frozen=True)
class Place:
    """A project, as the navigation names it."""

    slug: str
    name: str

    @property
    def home(self) -> str:
        """The address of its first page; those of the others begin with it."""
        return f"/admin/projects/{self.slug}"


@dataclass(frozen=True)
class Frame:
    """The project that a page belongs to, if it does, and those that its reader can switch to."""

    places: Sequence[Place]
    current: Place | None = None


def get_frame(request: Request) -> Frame:
    """The frame of the page that a request asks for."""
    frame: Frame | None = getattr(request.state, "frame", None)
    return frame or Frame(())


def enter(request: Request, slug: str, name: str) -> None:
    """Say which project a page belongs to whose address does not name it."""
    request.state.frame = Frame(get_frame(request).places, Place(slug, name))
