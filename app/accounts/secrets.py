"""Passwords and tokens: made here, shown once, stored only as hashes."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.errors import InvalidInput

SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1000
# zxcvbn's scale goes from 0 to 4; from 3 on it takes more than 10^8 guesses.
LOWEST_SCORE = 3
# Characters that are judged: the time grows with the square, to seconds for 72 signs that mean letters.
MOST_JUDGED = 40
API_TOKEN_PREFIX = "plk_"  # noqa: S105 - lets people and scanners recognise a leaked token


@lru_cache
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@lru_cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_urlsafe())


def check_password(password: str, personal: Iterable[str] = ()) -> None:
    """Raises InvalidInput for a password that is too short, too long, or that a guesser tries early.

    `personal` is what those who know the person try first: their address and name.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidInput(
            f"A password needs at least {SHORTEST_PASSWORD} characters "
            f"and at most {LONGEST_PASSWORD:,}",
            field="password",
        )
    # Its lists and estimates take a moment to load, and most processes never need them.
    from zxcvbn import zxcvbn

    words = {word for text in personal for word in (text, *re.split(r"[\W_]+", text)) if word}
    if zxcvbn(password[:MOST_JUDGED], user_inputs=sorted(words))["score"] < LOWEST_SCORE:
        raise InvalidInput(
            "This password is easy to guess. Take several words that do not belong together; your name, "
            "your address, repeats and what is common are tried first.",
            field="password",
        )


def hash_password(password: str, personal: Iterable[str] = ()) -> str:
    """The Argon2id hash of a password. Raises InvalidInput for one that `check_password` refuses."""
    check_password(password, personal)
    return _hasher().hash(password)


def verify_password(password: str, stored: str | None) -> bool:
    """Whether the password is the one; an unknown person takes as long as a wrong password."""
    if len(password) > LONGEST_PASSWORD:
        return False
    return _hasher().verify(password, stored or _nobodys_hash()) and stored is not None


def new_token() -> str:
    """A fresh secret with 256 bits of randomness."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> bytes:
    """What is stored of a token. It is random already, so a plain SHA-256 is enough."""
    return hashlib.sha256(token.encode()).digest()
