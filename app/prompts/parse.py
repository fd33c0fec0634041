"""The import format, row by row: what is right becomes a `PromptRow`, what is wrong a `FieldError`.

Pure: no file, no database. Every way a row can be wrong ends in an error that names its field; nothing is
guessed and nothing half-read.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypedDict

from app.errors import InvalidInput
from app.prompts.limits import DEEPEST, METADATA_BYTES, MOST_MESSAGES
from app.prompts.transcripts import split_pair

ROLES = ("system", "user", "assistant")
# What OpenAI's API has called system since 2024.
OTHER_ROLES = {"developer": "system"}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
# What goes with a rater's ranks alone.
OF_A_RANKING = (
    *("keep_gaps", "presented", "blind", "seconds", "at"),
    *("strength", "axes", "flags", "rationale"),
)
FIELDS = frozenset(
    {"prompt", "id", "candidates", "ranks", "gold", "rater", "priority", "metadata"}
    | {"chosen", "rejected", *OF_A_RANKING}
)
MOST_CANDIDATES = 9
MOST_SECONDS = 7 * 86_400
DEFAULT_RATER = "imported"
MOST_AXES = 50
# No judgment of a model's response is older.
FIRST_YEAR = 1970


@dataclass(frozen=True)
class CandidateRow:
    """A ready-made response, and the name of the policy that wrote it, if known."""

    text: str
    policy: str | None = None


@dataclass(frozen=True)
class PromptRow:
    """One right row."""

    line: int
    messages: list[dict[str, str]]
    external_id: str | None = None
    candidates: list[CandidateRow] = field(default_factory=list)
    ranks: list[int] | None = None
    gold: bool = False
    rater: str | None = None
    # The margins of the ranks are by their own distance, not by dense ranks.
    keep_gaps: bool = False
    # How the ranking came about, as far as the sender knows: the candidates' indexes in the order shown,
    # whether the rater did not see who wrote them, how long it took.
    presented: list[int] | None = None
    blind: bool | None = None
    seconds: float | None = None
    at: datetime | None = None
    # What else it says. On an axis: one score of the best, or one of each candidate, None where none is.
    strength: int | None = None
    axes: "Axes" = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    rationale: str | None = None
    priority: int = 0
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def content_hash(self) -> bytes:
        """SHA-256 of the canonical messages: what splits are made by."""
        return hash_messages(self.messages)


@dataclass(frozen=True)
class RowError:
    """One wrong row: where, and why."""

    line: int
    field: str
    message: str


Axes = dict[str, float | list[float | None]]
# A row as it came: its fields are anything until they are looked at.
Row = dict[str, object]


class Common(TypedDict):
    """What every kind of row may have."""

    line: int
    external_id: str | None
    priority: int
    metadata: dict[str, object]


class Provenance(TypedDict, total=False):
    """How the ranking came about, as far as the sender knows, how its margins count, what else it says."""

    keep_gaps: bool
    presented: list[int] | None
    blind: bool | None
    seconds: float | None
    at: datetime | None
    strength: int | None
    axes: Axes
    flags: list[str]
    rationale: str | None


class Ranks(Provenance, total=False):
    """The ranking that a row brings, if it brings one."""

    ranks: list[int]
    gold: bool
    rater: str | None


class FieldError(Exception):
    """Something in a row is wrong; the reader adds the line."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        # A name may come from the file itself: as it is told, it can be shown and stored.
        self.field = _plain(name)
        self.message = message


def _plain(name: object) -> str:
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return text.replace("\x00", "\\x00")[:100]


def hash_messages(messages: list[dict[str, str]]) -> bytes:
    """SHA-256 of the messages as canonical JSON."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def parse_row(row: object, line: int, *, max_bytes: int) -> PromptRow:
    """One row of the import format. Raises FieldError."""
    if not isinstance(row, dict):
        raise FieldError("line", "must be a JSON object")
    unknown = sorted(set(row) - FIELDS)
    if unknown:
        more = f" (nor is {', '.join(map(_plain, unknown[1:]))})" if unknown[1:] else ""
        raise FieldError(unknown[0], f"is not a field of the import format{more}")
    row = {name: value for name, value in row.items() if value is not None}
    common: Common = {
        "line": line,
        "external_id": _external_id(row.get("id")),
        "priority": _integer("priority", row.get("priority", 0), -1_000_000, 1_000_000),
        "metadata": _metadata(row.get("metadata", {})),
    }
    if "chosen" in row or "rejected" in row:
        return _pair(row, common, max_bytes)
    if "prompt" not in row:
        raise FieldError("prompt", "is missing")
    messages = _messages("prompt", row["prompt"], max_bytes)
    _ends_with_user("prompt", messages)
    candidates = _candidates(row.get("candidates"), max_bytes)
    ranking = _ranking(row, len(candidates), max_bytes)
    return PromptRow(messages=messages, candidates=candidates, **ranking, **common)


def _ranking(row: Row, count: int, max_bytes: int) -> Ranks:
    gold = row.get("gold", False)
    if not isinstance(gold, bool):
        raise FieldError("gold", "must be true or false")
    for name in OF_A_RANKING:
        if name in row and (gold or "ranks" not in row):
            raise FieldError(name, "is only for a rater's ranks")
    rater = None if row.get("rater") is None else _name("rater", row["rater"])
    if "ranks" not in row:
        if gold:
            raise FieldError("ranks", "a gold row needs the right ranks")
        if rater is not None:
            raise FieldError("ranks", "a row with a rater needs their ranks")
        return {}
    ranks = row["ranks"]
    if not isinstance(ranks, list) or len(ranks) != count or count == 0:
        raise FieldError("ranks", f"must be a list as long as candidates ({count})")
    ranks = [_integer(f"ranks.{index}", rank, 1, count) for index, rank in enumerate(ranks)]
    if min(ranks) != 1:
        raise FieldError("ranks", "no candidate has rank 1, the best")
    if not gold and rater is None:
        raise FieldError("rater", "ranks need a rater, or gold: true")
    return {
        "ranks": ranks,
        "gold": gold,
        "rater": None if gold else rater,
        **_provenance(row, count, max_bytes),
    }


def _provenance(row: Row, count: int, max_bytes: int) -> Provenance:
    for name in ("keep_gaps", "blind"):
        if not isinstance(row.get(name, False), bool):
            raise FieldError(name, "must be true or false")
    presented, seconds = row.get("presented"), row.get("seconds")
    if presented is not None and (
        not isinstance(presented, list)
        or not all(type(each) is int for each in presented)
        or sorted(presented) != list(range(count))
    ):
        raise FieldError("presented", f"must hold each index from 0 to {count - 1} once")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | None):
        raise FieldError("seconds", "must be a number")
    if seconds is not None and not 0 <= seconds <= MOST_SECONDS:
        raise FieldError("seconds", f"must be between 0 and {MOST_SECONDS:,}")
    return {
        "keep_gaps": row.get("keep_gaps") is True,
        "presented": presented,
        "blind": None if row.get("blind") is None else row["blind"] is True,
        "seconds": None if seconds is None else float(seconds),
        "at": _moment("at", row.get("at")),
        "strength": _strength(row.get("strength")),
        "axes": _axes(row.get("axes", {}), count),
        "flags": _flags(row.get("flags", [])),
        "rationale": _rationale(row.get("rationale"), max_bytes),
    }


def _moment(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise FieldError(name, "must be a moment as ISO 8601 writes it") from None
    if moment.tzinfo is None:
        raise FieldError(name, "has no offset from UTC (as +00:00 or Z)")
    if moment.year < FIRST_YEAR or moment > datetime.now(UTC):
        raise FieldError(name, f"must be between the year {FIRST_YEAR} and now")
    return moment


def _strength(value: object) -> int | None:
    return None if value is None else _integer("strength", value, 1, 3)


def _axes(value: object, count: int) -> Axes:
    """`{name: score}` of the best candidate, or `{name: [score of each]}` in their order."""
    if not isinstance(value, dict) or len(value) > MOST_AXES:
        raise FieldError("axes", f"must be an object of at most {MOST_AXES} axes")
    axes: Axes = {}
    for name, given in value.items():
        where = f"axes.{name}"
        _text("axes", name, 64)
        if isinstance(given, list):
            if len(given) != count:
                raise FieldError(where, f"must hold a score for each candidate ({count})")
            axes[name] = [None if each is None else _score(where, each) for each in given]
        else:
            axes[name] = _score(where, given)
    return axes


def _score(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FieldError(name, "must be a number, or a list of numbers")
    return float(value)


def _flags(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MOST_AXES:
        raise FieldError("flags", f"must be a list of at most {MOST_AXES} names")
    return [_text(f"flags.{index}", each, 64) for index, each in enumerate(value)]


def _rationale(value: object, max_bytes: int) -> str | None:
    return None if value is None else _text("rationale", value, max_bytes, empty=True)


def _pair(row: Row, common: Common, max_bytes: int) -> PromptRow:
    """`{prompt, chosen, rejected}`, or two transcripts: a task with one imported ranking."""
    for name in ("chosen", "rejected"):
        if name not in row:
            raise FieldError(name, "is missing")
    for name in ("candidates", "ranks", "gold", "keep_gaps"):
        if name in row:
            raise FieldError(name, "does not go together with chosen and rejected")
    rater = _name("rater", row.get("rater", DEFAULT_RATER))
    fields = common.copy()
    prompt, both = row.get("prompt"), (row["chosen"], row["rejected"])
    early = False
    if isinstance(prompt, str) and prompt.startswith(HUMAN):
        messages, texts, early = _continued(prompt, *both, max_bytes)
    elif prompt is not None and not _are_conversations(both):
        messages = _messages("prompt", prompt, max_bytes)
        _ends_with_user("prompt", messages)
        texts = [_response(name, row[name], max_bytes) for name in ("chosen", "rejected")]
    elif all(isinstance(each, str) for each in both):
        messages, texts, early = _transcripts("chosen", *both, max_bytes)
    else:
        messages, texts = _common_messages(row, max_bytes)
        if prompt is not None:
            _same_prompt(_messages("prompt", prompt, max_bytes), messages)
    if early:
        fields["metadata"] = {**common["metadata"], "parts_early": True}
    return PromptRow(
        messages=messages,
        candidates=[CandidateRow(text) for text in texts],
        ranks=[1, 2],
        rater=rater,
        **_provenance(row, 2, max_bytes),
        **fields,
    )


def _are_conversations(both: tuple[object, object]) -> bool:
    """Whether both are whole conversations: the prompt and a response to it."""
    return all(isinstance(each, list) and len(each) > 1 for each in both)


def _transcripts(
    name: str, chosen: object, rejected: object, max_bytes: int
) -> tuple[list[dict[str, str]], list[str], bool]:
    """Two of Anthropic's transcripts: (messages, texts, whether they part early)."""
    one, other = (
        _text(each, value, max_bytes, empty=True)
        for each, value in (("chosen", chosen), ("rejected", rejected))
    )
    try:
        messages, *texts, early = split_pair(one, other)
    except InvalidInput as error:
        raise FieldError(name, error.message) from None
    return messages, texts, early


def _continued(
    prompt: str, chosen: object, rejected: object, max_bytes: int
) -> tuple[list[dict[str, str]], list[str], bool]:
    """A prompt with the markers of a transcript, which both responses go on from."""
    if not prompt.rstrip(" ").endswith(ASSISTANT):
        raise FieldError("prompt", "is a transcript that does not end with its marker 'Assistant:'")
    opening = prompt.rstrip(" ")

    def whole(name: str, value: object) -> str:
        text = _text(name, value, max_bytes, empty=True)
        # The space behind a marker is the format's, on whichever side it stands.
        return f"{opening} {text.removeprefix(' ') if prompt == opening else text}"

    return _transcripts("prompt", whole("chosen", chosen), whole("rejected", rejected), max_bytes)


def _same_prompt(given: list[dict[str, str]], shared: list[dict[str, str]]) -> None:
    """A prompt beside two whole conversations is what they share, or its last turn."""
    if given != shared and given != shared[-1:]:
        raise FieldError("prompt", "is not what chosen and rejected begin with")


def _common_messages(row: Row, max_bytes: int) -> tuple[list[dict[str, str]], list[str]]:
    """Two conversations that differ in their last turn alone."""
    one, other = (_messages(name, row[name], max_bytes) for name in ("chosen", "rejected"))
    if one[:-1] != other[:-1]:
        raise FieldError("rejected", "must differ from chosen in the last message alone")
    _ends_with_user("chosen", one[:-1])
    for name, messages in (("chosen", one), ("rejected", other)):
        if messages[-1]["role"] != "assistant":
            raise FieldError(name, "must end with an assistant's message")
    return one[:-1], [one[-1]["content"], other[-1]["content"]]


def _response(name: str, value: object, max_bytes: int) -> str:
    if isinstance(value, list):
        messages = _messages(name, value, max_bytes)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise FieldError(name, "beside a prompt it must be one assistant's message")
        return messages[0]["content"]
    return _text(name, value, max_bytes, empty=True)


def _messages(name: str, value: object, max_bytes: int) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": "user", "content": _text(name, value, max_bytes)}]
    if not isinstance(value, list) or not value:
        raise FieldError(name, "must be a string or a list of messages")
    if len(value) > MOST_MESSAGES:
        raise FieldError(name, f"has more than {MOST_MESSAGES:,} messages")
    messages = []
    total = 0
    for index, message in enumerate(value):
        where = f"{name}.{index}"
        if not isinstance(message, dict):
            raise FieldError(where, "must be an object with role and content")
        # What libraries write beside the two, and leave empty: a name, tool calls, a refusal.
        known = {key for key, given in message.items() if given is not None and given != []}
        if known != {"role", "content"}:
            raise FieldError(where, "must be an object with role and content")
        role = message["role"]
        role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise FieldError(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        content = _joined(f"{where}.content", message["content"])
        content = _text(f"{where}.content", content, max_bytes, empty=True)
        total += len(content.encode())
        messages.append({"role": role, "content": content})
    if total > max_bytes:
        raise FieldError(name, f"is larger than {max_bytes:,} bytes")
    return messages


def _joined(name: str, content: object) -> object:
    """A message's content in parts as one text, a line for each. Raises FieldError for other kinds."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            told = f"a part of type {_plain(kind)}" if kind else "what is no part"
            raise FieldError(f"{name}.{index}", f"is {told}; only text can be rated here")
        texts.append(part["text"])
    return "\n".join(texts)


def _ends_with_user(name: str, messages: list[dict[str, str]]) -> None:
    if not messages or messages[-1]["role"] != "user":
        raise FieldError(name, "must end with a user's message")
    if not messages[-1]["content"].strip():
        raise FieldError(name, "its last message is empty")


def _candidates(value: object, max_bytes: int) -> list[CandidateRow]:
    if value is None:
        return []
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_CANDIDATES:
        raise FieldError("candidates", f"must be a list of 2 to {MOST_CANDIDATES}")
    candidates = []
    for index, item in enumerate(value):
        where = f"candidates.{index}"
        # A model may have answered nothing: that is an answer, and can be ranked.
        if isinstance(item, str):
            candidates.append(CandidateRow(_text(where, item, max_bytes, empty=True)))
            continue
        if not isinstance(item, dict) or "text" not in item or set(item) - {"text", "policy"}:
            raise FieldError(where, "must be a string or an object with text and policy")
        policy = item.get("policy")
        candidates.append(
            CandidateRow(
                _text(f"{where}.text", item["text"], max_bytes, empty=True),
                None if policy is None else _text(f"{where}.policy", policy, 200),
            )
        )
    return candidates


def _text(name: str, value: object, max_bytes: int, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FieldError(name, "must be a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise FieldError(name, "holds half a surrogate pair, which is no character") from None
    if size > max_bytes:
        raise FieldError(name, f"is larger than {max_bytes:,} bytes ({size:,})")
    if "\x00" in value:
        raise FieldError(name, "contains the character NUL, which PostgreSQL cannot store")
    if not empty and not value.strip():
        raise FieldError(name, "is empty")
    return value


def _external_id(value: object) -> str | None:
    return None if value is None else _name("id", value)


def _name(name: str, value: object) -> str:
    """A name, which may be a number: 17, or 17.0 where a table had gaps in its column."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(name, value, 200)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(name, "must be a whole number")
    if not low <= value <= high:
        raise FieldError(name, f"must be between {low:,} and {high:,}")
    return value


def _metadata(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise FieldError("metadata", "must be an object")
    _check_storable(value, 0)
    if len(json.dumps(value, ensure_ascii=False).encode()) > METADATA_BYTES:
        raise FieldError("metadata", f"is larger than {METADATA_BYTES:,} bytes of JSON")
    return value


def _check_storable(value: object, depth: int) -> None:
    """Refuse what JSONB cannot hold: NUL, half surrogates, endless depth, what is no JSON."""
    if depth > DEEPEST:
        raise FieldError("metadata", f"is nested deeper than {DEEPEST}")
    if isinstance(value, str):
        _text("metadata", value, METADATA_BYTES, empty=True)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FieldError("metadata", "holds a number that is not finite")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_storable(str(key), depth)
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
    elif value is not None and not isinstance(value, int | float):
        # A Parquet column may hold moments, bytes or decimals.
        raise FieldError("metadata", f"holds a {type(value).__name__}, which JSON does not have")
