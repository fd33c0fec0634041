"""The values that JSON holds, for rows of files and for figures."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
JsonObject: TypeAlias = dict[str, JsonValue]
# A stage's result.json, to whoever knows its shape.
Result: TypeAlias = dict[str, Any]


def as_json(figures: Mapping[str, object]) -> JsonObject:
    """A TypedDict, whose fields are JSON values, as an object of them."""
    return cast(JsonObject, dict(figures))
