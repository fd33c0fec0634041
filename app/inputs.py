"""What may come in: text that PostgreSQL can store, numbers that its columns hold, structures with an end.

Every body, form and configuration file is an `Input`: whatever its fields say, nothing in it holds a NUL,
half a surrogate pair, a number beyond bigint or not finite, or structures without end. The bounded types
are for its fields, and a finding of pydantic's is told in a sentence for people.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

# PostgreSQL's integer and bigint.
MOST_INT4 = 2**31 - 1
MOST_INT8 = 2**63 - 1
# Deeper structures than this are no settings but an attack on whoever walks them.
DEEPEST = 20

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
# A seed is eight bytes of what is hashed, and a bigint where it is stored.
Seed = Annotated[int, Field(ge=0, le=MOST_INT8)]
# How many rows of something.
Count = Annotated[int, Field(ge=1, le=MOST_INT4)]


def _(text: str) -> str:
    """Marks a sentence for translation, which happens where it is said."""
    return text


NUL = _("contains the character NUL, which PostgreSQL cannot store")
HALF_CHARACTER = _("holds half a surrogate pair, which is no character")
TOO_LARGE = _("holds a number that is too large to be stored")
NOT_FINITE = _("holds a number that is not finite")
TOO_DEEP = _("is nested too deeply")


def find_unstorable(text: str) -> str | None:
    """Why PostgreSQL cannot store a text, if it cannot."""
    if "\x00" in text:
        return NUL
    # A search for surrogates is slower than to encode, for all but the shortest texts.
    try:
        text.encode()
    except UnicodeEncodeError:
        return HALF_CHARACTER
    return None


def printable(text: str) -> str:
    """The text as it can be shown and logged, whatever came in."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def storable(text: str) -> str:
    """What a model wrote, as PostgreSQL can store it: without NUL, and U+FFFD for what is no character."""
    if find_unstorable(text) is None:
        return text
    return text.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_storable(value: object, *path: str | int) -> None:
    """Raise pydantic's error, with the path of what cannot be stored in it, for anything in a body."""
    reason = None
    if isinstance(value, str):
        reason = find_unstorable(value)
    elif isinstance(value, int):
        reason = TOO_LARGE if not -MOST_INT8 - 1 <= value <= MOST_INT8 else None
    elif isinstance(value, float):
        reason = None if math.isfinite(value) else NOT_FINITE
    elif isinstance(value, Mapping | list | tuple):
        if len(path) >= DEEPEST:
            reason = TOO_DEEP
        else:
            _check_parts(value, path)
    if reason is not None:
        where = printable(".".join(map(str, path)))
        raise PydanticCustomError("unstorable", "{reason}", {"reason": reason, "place": where})


def _check_parts(
    value: Mapping[object, object] | Sequence[object], path: tuple[str | int, ...]
) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_storable(str(key), *path, str(key))
            check_storable(item, *path, str(key))
    else:
        for index, item in enumerate(value):
            check_storable(item, *path, index)


class Input(BaseModel):
    """The shape of something that comes in: no field that is not known, nothing that cannot be stored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, values: object) -> object:
        check_storable(values)
        return values


_WHOLE = _("must be a whole number")
_NUMBER = _("must be a number")
_TEXT = _("must be text")
_YES_OR_NO = _("must be true or false")
_OBJECT = _("must be an object")
_MOMENT = _("must be a date and time, such as 2026-01-31T12:00:00Z")
_ID = _("is not an id")

# Pydantic's own words are for programmers. {…} comes from the finding's context.
SENTENCES: Mapping[str, str] = {
    "missing": _("is missing"),
    "extra_forbidden": _("is not a known field"),
    "json_invalid": _("is not JSON"),
    "json_type": _("is not JSON"),
    "none_required": _("must be left out"),
    "string_type": _TEXT,
    "string_sub_type": _TEXT,
    "string_unicode": HALF_CHARACTER,
    "string_too_short": _("must have at least {min_length} characters"),
    "string_too_long": _("must have at most {max_length} characters"),
    "string_pattern_mismatch": _("is not written as it must be ({pattern})"),
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _("is too large a number"),
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _("must be a finite number"),
    "greater_than": _("must be more than {gt}"),
    "greater_than_equal": _("must be {ge} or more"),
    "less_than": _("must be less than {lt}"),
    "less_than_equal": _("must be {le} or less"),
    "bool_type": _YES_OR_NO,
    "bool_parsing": _YES_OR_NO,
    "uuid_type": _ID,
    "uuid_parsing": _ID,
    "uuid_version": _ID,
    "enum": _("must be one of {expected}"),
    "literal_error": _("must be one of {expected}"),
    "list_type": _("must be a list"),
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "too_short": _("must have at least {min_length} entries"),
    "too_long": _("must have at most {max_length} entries"),
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
    "datetime_object_invalid": _MOMENT,
    "bytes_invalid_encoding": _("is not UTF-8"),
}


def describe(found: ErrorDetails, say: Callable[[str], str] = str) -> tuple[str, str]:
    """(field, sentence) of one finding; `say` translates. The field is empty where it is the whole."""
    context = found.get("ctx", {})
    place = context.get("place")
    # Pydantic adds which key it was, and which member of a union: neither is a name in what was sent.
    path = [str(part) for part in found["loc"] if part != "float" and "[" not in str(part)]
    path += [place] if place else []
    kind = found["type"]
    if kind == "unstorable":
        message = say(str(context["reason"]))
    elif kind == "string_too_short" and context.get("min_length") == 1:
        message = say(_("is empty"))
    elif kind in SENTENCES:
        message = say(SENTENCES[kind]).format(**context)
    else:
        message = found["msg"].removeprefix("Value error, ")
    if not path and kind == "value_error":
        # A check over several fields names the one that it blames: "axes: two have the same name".
        blamed, colon, rest = message.partition(": ")
        if colon and blamed.replace(".", "").replace("_", "").replace("-", "").isalnum():
            path, message = [blamed], rest
    return printable(".".join(path)), printable(message)
