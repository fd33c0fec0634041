"""Passwords and tokens: made here, shown once, stored only as hashes."""

import hashlib
import secrets
from functools import lru_cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.errors import InvalidInput

SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1000
API_TOKEN_PREFIX = "plk_"  # noqa: S105 - lets people and scanners recognise a leaked token


@lru_cache
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@lru_cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_urlsafe())


def hash_password(password: str) -> str:
    """The Argon2id hash of a password. Raises InvalidInput where it is too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidInput(
            f"A password needs at least {SHORTEST_PASSWORD} characters "
            f"and at most {LONGEST_PASSWORD:,}",
            field="password",
        )
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
