"""Column types and ids that every room's tables share."""

import os
import time
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import DateTime, Enum, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import mapped_column


def uuid7() -> uuid.UUID:
    """A time-ordered, unguessable id (RFC 9562, section 5.7): 48 bits of ms, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def uuid7s(count: int) -> list[uuid.UUID]:
    """That many ids in ascending order, for rows whose order counts: within one ms they are random."""
    return sorted(uuid7() for _ in range(count))


def utc_now() -> datetime:
    """The present, with its zone."""
    return datetime.now(UTC)


def choice(kind: type[StrEnum]) -> Enum:
    """A text column that holds one of an enum's values, held by a CHECK constraint."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
        name=kind.__name__.lower(),
    )


Id = Annotated[uuid.UUID, mapped_column(Uuid, primary_key=True, default=uuid7)]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
CreatedAt = Annotated[
    datetime,
    mapped_column(DateTime(timezone=True), server_default=func.now(), default=utc_now),
]
JsonObject = Annotated[dict[str, object], mapped_column(JSONB, default=dict, server_default="{}")]
JsonList = Annotated[list[Any], mapped_column(JSONB, default=list, server_default="[]")]
