"""What looks like a secret is taken out of every line before it is written.

Nobody logs one on purpose. This is for the messages of libraries, for the addresses that people mistype,
and for the mistake that we make tomorrow.
"""

import os
import re
from functools import lru_cache

GONE = "…"
KEYS = "PLACKETT_KEY_"
SHORTEST_KEY = 8  # what is shorter would blacken ordinary words

# A repetition is bounded where another could begin inside it: a line of megabytes must take no minute.
PATTERNS = (
    re.compile(r"(\bplk_)[\w-]{16,}"),  # an API token
    re.compile(r"(/sign-in/)[\w-]{16,}"),  # a sign-in link
    re.compile(r"((?:Bearer|Basic) )[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"(://[^\s/:@\"']{0,100}:)[^\s/@\"']{1,200}(?=@)"),  # user:password@
    re.compile(r"(\bpassword\s?=\s?'?)[^\s,;)\"']+", re.IGNORECASE),  # libpq's way to write one
    re.compile(r"(\bplackett_(?:session|csrf)=)[\w.-]+"),
)


@lru_cache
def _keys() -> tuple[str, ...]:
    found = (value.strip() for name, value in os.environ.items() if name.startswith(KEYS))
    # The longest first: one key may begin with another.
    return tuple(
        sorted((each for each in found if len(each) >= SHORTEST_KEY), key=len, reverse=True)
    )


def redact(text: str) -> str:
    """The text without what looks like a token, a password or a key of this process."""
    for key in _keys():
        text = text.replace(key, GONE)
    for pattern in PATTERNS:
        text = pattern.sub(rf"\1{GONE}", text)
    return text
