"""The tree of errors: what went wrong, said once, with no word about HTML, JSON or a terminal.

Each error carries the HTTP status that fits it, a stable code for programs, and the field (or
line, or setting) where the trouble is. `app.web.errors` renders them as a problem document, a page or an
htmx fragment; the command line prints the message and exits with 1.
"""

from collections.abc import Mapping, Sequence

from app.inputs import printable


class PlackettError(Exception):
    """The root of every error that a person may cause and should be able to mend."""

    status = 400
    code = "bad-request"
    title = "That request cannot be carried out"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        details: Sequence[Mapping[str, object]] = (),
    ) -> None:
        # What is said may quote what came in, and has to be shown and logged whatever that was.
        super().__init__(printable(message))
        self.message = printable(message)
        self.field = None if field is None else printable(field)
        self.details = list(details)

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidInput(PlackettError):  # noqa: N818 - the tree reads as sentences
    """Something in the input is wrong; `field` names it, or the line."""

    status = 422
    code = "invalid-input"
    title = "Some of the input is not right"


class TooLarge(InvalidInput):
    """The input is bigger than the limit that its message names."""

    status = 413
    code = "too-large"
    title = "The input is too large"


class NotSignedIn(PlackettError):  # noqa: N818
    """Nobody is signed in, or the token is unknown, expired or revoked."""

    status = 401
    code = "not-signed-in"
    title = "Please sign in"


class NotAllowed(PlackettError):  # noqa: N818
    """The person is known, and their role does not allow this."""

    status = 403
    code = "not-allowed"
    title = "Your role does not allow this"


class NotFound(PlackettError):  # noqa: N818
    """There is no such thing, or not for this person."""

    status = 404
    code = "not-found"
    title = "There is nothing here"


class Conflict(PlackettError):  # noqa: N818
    """The request is fine and the state of things forbids it."""

    status = 409
    code = "conflict"
    title = "That conflicts with what is already stored"


class TooManyTries(PlackettError):  # noqa: N818
    """The same was tried too often in too short a time; it works again after a while."""

    status = 429
    code = "too-many-tries"
    title = "That was tried too often"


class Unavailable(PlackettError):  # noqa: N818
    """Something that we depend on (the database, a model's server) does not answer."""

    status = 503
    code = "unavailable"
    title = "Something that is needed does not answer"


class Busy(Unavailable):
    """What is needed is there, and was not free in time; the message names what was waited for."""

    code = "busy"
    title = "Something that is needed was not free in time"


class DiskFull(Unavailable):
    """A disk has no room left for what was to be stored."""

    code = "disk-full"
    title = "The disk is full"
