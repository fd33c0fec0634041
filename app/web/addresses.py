"""The addresses of pages: how they are told to the log."""

from starlette.types import Scope

# Parts of an address that let whoever knows them in.
SECRET_PARTS = frozenset({"token"})


def loggable_path(scope: Scope) -> str:
    """The path of a request without what in it is secret; `other` where no route knows it.

    An address that nobody knows is not written down at all: it may be a sign-in link with a slip in it.
    """
    path: str = getattr(scope.get("route"), "path", "")
    for name, value in scope.get("path_params", {}).items():
        if name not in SECRET_PARTS:
            path = path.replace(f"{{{name}}}", str(value))
    return path or "other"
