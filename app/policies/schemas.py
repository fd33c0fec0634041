"""The shapes of policies at the edge."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.policies.models import Backend
from app.projects.schemas import Name


class PolicyIn(BaseModel):
    """A model to be registered."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    backend: Backend
    model: str = Field(default="", max_length=2000)
    base_url: str | None = Field(default=None, max_length=2000, pattern=r"^https?://")
    api_key_variable: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]{0,99}$")
    notes: dict[str, Any] = Field(default_factory=dict)

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
