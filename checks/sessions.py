"""Routes translate and never query; services flush, and the route, the command or the job commits."""

import ast
from collections.abc import Iterator

from checks.sources import Breach, Source

QUERIES = {"execute", "scalar", "scalars", "stream", "stream_scalars", "get", "get_one"}
FACES = ("app/admin/", "app/research/")
ROUTES = {"api.py", "pages.py"}
# Who commits besides routes: whatever begins the work itself. All else is a service.
BEGINNERS = {"cli.py", "commands.py", "jobs.py", "runner.py", "worker.py", "demo.py"}
# Sessions of a whole piece of work; the guard that notes when a session was last used.
COMMITTERS = {"app/db/engine.py", "app/accounts/guards.py", "app/terminal.py"}


def is_route(source: Source) -> bool:
    """Whether a file holds pages or calls of the API."""
    return source.room == "app" and (source.name in ROUTES or source.path.startswith(FACES))


def queries_in_routes(source: Source) -> Iterator[Breach]:
    """A session asked for rows in a route: the room's queries.py is where selects stand."""
    if is_route(source):
        for call, method in calls_of_sessions(source.tree):
            if method in QUERIES:
                yield source.breach(call, f"a route queries (session.{method}): use queries.py")


def commits_in_services(source: Source) -> Iterator[Breach]:
    """A commit below the route, the command or the job: two operations are then no longer one."""
    if source.room != "app" or is_route(source):
        return
    if source.name in BEGINNERS or source.path in COMMITTERS:
        return
    for call, method in calls_of_sessions(source.tree):
        if method == "commit":
            yield source.breach(call, "a service commits: flush, and let the caller commit")


def calls_of_sessions(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Method calls on what is a session by its name, or by the annotation of a parameter."""
    names = {"session"} | {
        argument.arg
        for argument in ast.walk(tree)
        if isinstance(argument, ast.arg)
        and argument.annotation is not None
        and ast.unparse(argument.annotation).endswith("Session")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value  # a variable, or an attribute of one: `request.state.session`
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", None)
            if name in names:
                yield node, node.func.attr
