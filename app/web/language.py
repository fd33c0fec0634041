"""The language of the interface: what the reader chose, else what their browser prefers, else English.

The strings in the code are English. A translation is `locales/<language>.po`, read at first use, so that
there is nothing to compile; `python dev.py words` brings the files up to date with the code.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations

from babel import Locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from starlette.requests import HTTPConnection

from app.settings import CHECKOUT

LOCALES = CHECKOUT / "locales"
COOKIE = "plackett_language"
ENGLISH = "en"

_language: ContextVar[str] = ContextVar("language", default=ENGLISH)


@lru_cache
def list_languages() -> Mapping[str, str]:
    """Code to its own name, English first."""
    codes = [ENGLISH, *sorted(file.stem for file in LOCALES.glob("*.po"))]
    return {code: (Locale.parse(code).get_display_name(code) or code).title() for code in codes}


@lru_cache
def _translations(language: str) -> NullTranslations:
    if language == ENGLISH:
        return NullTranslations()
    compiled = io.BytesIO()
    with (LOCALES / f"{language}.po").open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return GNUTranslations(compiled)


def choose_language(request: HTTPConnection) -> str:
    """The reader's language: by cookie, else the first of Accept-Language that there is."""
    chosen = request.cookies.get(COOKIE, "")
    if chosen in list_languages():
        return chosen
    wanted: list[tuple[float, int, str]] = []
    for part in request.headers.get("accept-language", "").split(",")[:20]:
        code, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), len(wanted), code.split("-")[0].lower()))
        except ValueError:
            continue
    known = (code for _, _, code in sorted(wanted) if code in list_languages())
    return next(known, ENGLISH)


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Say everything in this language meanwhile."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def get_language() -> str:
    """The language of the present request."""
    return _language.get()


def gettext(text: str) -> str:
    """The text in the reader's language; itself where it has no translation."""
    return _translations(_language.get()).gettext(text)


def ngettext(one: str, many: str, count: int) -> str:
    """`one` or `many` of something, by the rules of the reader's language."""
    return _translations(_language.get()).ngettext(one, many, count)
