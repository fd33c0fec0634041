"""Code that nothing uses, as vulture finds it.

Functions, methods, classes and properties only: a class's variables are columns, settings and what
templates read. What a framework calls by its decorator counts as used, and so does what the lists name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vulture import Vulture

from checks.sources import Breach

KINDS = {"function", "method", "class", "property", "import", "unreachable_code"}
CALLED_BY_DECORATOR = [
    # FastAPI; Typer, procrastinate
    *("@*.get", "@*.post", "@*.put", "@*.patch", "@*.delete", "@*.websocket"),
    *("@*.command", "@*.callback", "@*.task", "@*.periodic"),
    *("@*.exception_handler", "@*.middleware"),
    # pydantic, SQLAlchemy; pytest, Hypothesis
    *("@*_validator", "@*_serializer", "@computed_field", "@event.*", "@*.listens_for"),
    *("@pytest.*", "@rule", "@invariant", "@initialize", "@precondition"),
]
USED_ELSEWHERE = {
    "downgrade": "called by Alembic",
    "pytest_*": "called by pytest",
    "do_*": "called by http.server for a method of HTTP",
    "handle_*": "called by html.parser for a part of a page",
    "log_message": "called by http.server",
    "bradley_terry": "the formula of two, which a test holds the one of K against",
    "RankingRevision": "its table is written by SQL",
    "view_texts": "for the pages that show responses in two views; goes from here with the first of them",
    "preprocess": "called by Jinja for an extension",
    "readinto": "called by io.BufferedReader",
    "create_served_app": "named in a string, for uvicorn's worker processes",
    "keep_subprocess_alive": "called by uvicorn's supervisor",
    "join_all": "called by uvicorn's supervisor",
    "on_train_begin": "called by TRL's trainer",
    "on_step_end": "called by TRL's trainer",
}


def unused_code(root: Path, product: Sequence[str], around: Sequence[str]) -> Iterator[Breach]:
    """What the product defines and does not use itself; what stands around it and nobody uses.

    A test alone is no use of the product's code, but it is of what was written for tests.
    """
    found = _scan(root, product, report=product) | _scan(root, (*product, *around), report=around)
    yield from sorted(found, key=lambda breach: (breach.path, breach.line))


def _scan(root: Path, rooms: Sequence[str], *, report: Sequence[str]) -> set[Breach]:
    vulture = Vulture(ignore_names=list(USED_ELSEWHERE), ignore_decorators=CALLED_BY_DECORATOR)
    vulture.scavenge([str(root / room) for room in rooms if (root / room).exists()])
    return {
        Breach(path, item.first_lineno, f"nothing uses the {item.typ} {item.name}")
        for item in vulture.get_unused_code(min_confidence=60)
        if item.typ in KINDS
        and (path := Path(item.filename).relative_to(root).as_posix()).startswith(
            tuple(f"{room}/" for room in report)
        )
    }
