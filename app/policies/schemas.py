"""The shapes of policies at the edge."""

import re
import uuid
from datetime import datetime
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.inputs import Input, Name
from app.policies.models import Backend
from app.policies.reach import KEY_PATTERN, KEY_PREFIX


class PolicyIn(Input):
    """A model to be registered."""

    name: Name
    backend: Backend
    model: str = Field(default="", max_length=2000)
    base_url: str | None = Field(default=None, max_length=2000, pattern=r"^https?://")
    api_key_variable: str | None = Field(default=None, max_length=100)
    notes: dict[str, object] = Field(default_factory=dict, max_length=100)

    @field_validator("api_key_variable")
    @classmethod
    def _a_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(KEY_PATTERN, value):
            raise ValueError(
                f"is the name of a variable that begins with {KEY_PREFIX}; no other one is sent to a server"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _only_an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            complete = bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, half an IPv6 address
            complete = False
        if not complete:
            raise ValueError("is not the address of a server")
        # Addresses are shown on pages and in messages: a password has no place in one.
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("holds a host, perhaps a port and a path; keys go into a variable")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "PolicyIn":
        if self.backend is not Backend.IMPORTED and not self.model.strip():
            raise ValueError("model: is needed (a path, a hub id, or the server's model name)")
        if self.backend is Backend.OPENAI and not self.base_url:
            raise ValueError("base_url: is needed for a policy behind a server")
        return self


class PolicyOut(BaseModel):
    """A policy, as the API tells it."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    name: str
    backend: Backend
    model: str
    base_url: str | None
    run_id: uuid.UUID | None
    retired_at: datetime | None
    created_at: datetime
