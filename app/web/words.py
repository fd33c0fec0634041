"""Bring the translations up to date with the code: `python dev.py words`.

What raters read is translated: their pages, signing in, errors. Admins' and researchers' pages are English.
"""

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.pofile import read_po, write_po

from app.errors import PlackettError
from app.settings import CHECKOUT
from app.web.language import LOCALES

METHODS = [
    ("app/rating/**.py", "python"),
    ("app/intake/**.py", "python"),
    ("app/accounts/**.py", "python"),
    ("app/inputs.py", "python"),
    ("app/web/**.py", "python"),
    ("app/db/failures.py", "python"),
    ("templates/rating/**.html", "jinja2"),
    ("templates/accounts/sign_in*.html", "jinja2"),
    ("templates/accounts/account.html", "jinja2"),
    ("templates/web/**.html", "jinja2"),
]
# Errors are told in the reader's language where a page tells them, so what they say is extracted too.
ERRORS = (
    *("InvalidInput", "NotFound", "Conflict", "NotAllowed"),
    *("NotSignedIn", "Unavailable", "TooManyTries", "Busy", "DiskFull"),
)
KEYWORDS = DEFAULT_KEYWORDS | dict.fromkeys(ERRORS)
# What templates translate by its value: roles, and the flags and axes that a project begins with.
VALUES = (
    *("rater", "admin", "researcher"),
    *("Unsafe or offensive", "Contains personal data"),
    *("In the wrong language", "Broken or unreadable"),
    *("How helpful is it?", "How honest is it?", "How harmless is it?"),
)
OPTIONS = {"templates/**.html": {"trim_blocks": "true", "lstrip_blocks": "true"}}


def extract() -> Catalog:
    """Every string that a page may show a rater, with where it stands."""
    catalog = Catalog(project="Plackett", fuzzy=False)
    found = extract_from_dir(CHECKOUT, METHODS, OPTIONS, keywords=KEYWORDS)
    for file, line, message, _comments, context in sorted(found, key=lambda each: each[:2]):
        # Lines are left out: they would change with every edit.
        catalog.add(message, locations=[(file, line)], context=context)
    for value in VALUES:
        catalog.add(value, locations=[("app/web/words.py", 1)])
    waiting = [PlackettError]
    while waiting:
        kind = waiting.pop()
        catalog.add(kind.title, locations=[("app/errors.py", 1)])
        waiting += kind.__subclasses__()
    return catalog


def main() -> None:
    """Add what is new to every language's file, and take out what is gone."""
    words = extract()
    for path in sorted(LOCALES.glob("*.po")):
        with path.open("rb") as file:
            known = read_po(file, locale=path.stem)
        known.update(words, no_fuzzy_matching=True)
        known.obsolete.clear()
        with path.open("wb") as file:
            write_po(
                file, known, width=100, omit_header=True, include_lineno=False, sort_output=True
            )


if __name__ == "__main__":
    main()
