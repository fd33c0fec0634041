"""Reading what people collected: exports, and the files of others.

Rankings are the common form: a comparison is a ranking of two. What a file holds is told by its rows, not
by its name. Every error names the file, the line and the field.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from trainer.errors import TrainerError

Messages = list[dict[str, str]]
SPLITS = ("train", "validation", "test")
MARKER = re.compile(r"\n\n(Human|Assistant):")
# A single file without a split in its name is split by this rule, so that no prompt is in two parts.
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Ranking:
    """One rater's ranking of K candidates."""

    messages: Messages
    candidates: list[str]
    ranks: list[int]  # (K,), 1 is best, equal ranks are ties
    weight: float = 1.0
    rater: str = ""
    policies: tuple[str | None, ...] = ()
    strength: float | None = None  # of a pair: how much better the better one is
    # Scores of each candidate on the project's axes, where raters gave one for each.
    axes: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Demonstration:
    """A conversation that ends with a response worth imitating."""

    messages: Messages


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for a response."""

    messages: Messages
    id: str = ""


@dataclass
class Data:
    """Examples by split, the hash of the bytes they came from, and what was left out and why."""

    splits: dict[str, list[Any]]
    hash: str
    left_out: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, split: str) -> list[Any]:
        """The examples of a split."""
        return self.splits[split]


def read_rankings(path: str | Path) -> Data:
    """Rankings and comparisons of an export directory or a file.

    A single candidate, and a ranking of weight 0, carry nothing: they are left out, and counted. Rankings
    in which all are tied stay, and are counted too.
    """
    data = _read(Path(path), ("rankings", "comparisons", "hh"), _rankings_of)
    counts = data.left_out
    for split, rows in data.splits.items():
        kept = []
        for row in rows:
            if len(row.candidates) < 2:
                counts["single candidate"] = counts.get("single candidate", 0) + 1
            elif row.weight == 0:
                counts["weight 0"] = counts.get("weight 0", 0) + 1
            else:
                kept.append(row)
                if len(set(row.ranks)) == 1:
                    counts["all tied, kept"] = counts.get("all tied, kept", 0) + 1
        data.splits[split] = kept
    return data


def read_demonstrations(path: str | Path) -> Data:
    """Demonstrations of an export directory or a file; of comparisons, the preferred response."""
    return _read(Path(path), ("demonstrations", "comparisons", "hh"), _demonstrations_of)


def read_prompts(path: str | Path) -> Data:
    """Prompts: of an import file, or of any of the other files, each once."""
    data = _read(Path(path), ("rankings", "demonstrations", "comparisons", "hh"), _prompts_of)
    for split, rows in data.splits.items():
        once = {json.dumps(row.messages, sort_keys=True): row for row in rows}
        data.splits[split] = list(once.values())
    return data


def split_of(messages: Messages) -> str:
    """The split of a prompt in a file that has none: SHA-256 of its canonical JSON as a fraction."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for name, share in SHARES.items():
        edge += share
        if place < edge:
            return name
    return "train"


def _read(path: Path, kinds: Sequence[str], convert: Any) -> Data:
    if not path.exists():
        raise TrainerError(f"{path}: there is no such file or directory")
    digest = hashlib.sha256()
    splits: dict[str, list[Any]] = {split: [] for split in SPLITS}
    if path.is_dir():
        for split in SPLITS:
            for file in _files_of(path, kinds, split):
                _read_file(file, split, convert, splits, digest)
    else:
        named = next((split for split in SPLITS if f".{split}." in path.name), None)
        _read_file(path, named, convert, splits, digest)
    if not any(splits.values()):
        raise TrainerError(f"{path}: holds no {kinds[0]}")
    return Data(splits, digest.hexdigest())


def _files_of(folder: Path, kinds: Sequence[str], split: str) -> list[Path]:
    """The files of the first kind that the directory has for any split."""
    for kind in kinds:
        if any(_find(folder, kind, each) for each in SPLITS):
            found = _find(folder, kind, split)
            return [found] if found else []
    names = ", ".join(f"{kind}.{split}.jsonl" for kind in kinds)
    raise TrainerError(f"{folder}: is no export directory (it has none of {names})")


def _find(folder: Path, kind: str, split: str) -> Path | None:
    for ending in ("jsonl", "jsonl.gz", "parquet"):
        file = folder / f"{kind}.{split}.{ending}"
        if file.exists():
            return file
    return None


def _read_file(
    file: Path, split: str | None, convert: Any, splits: dict[str, list[Any]], digest: Any
) -> None:
    digest.update(file.read_bytes())
    for line, row in _rows(file):
        try:
            for example in convert(row):
                splits[split or split_of(_prompt_of(example))].append(example)
        except _WrongRow as error:
            raise TrainerError(f"{file}:{line}: {error}") from None


def _prompt_of(example: Any) -> Messages:
    messages: Messages = example.messages
    return messages[:-1] if isinstance(example, Demonstration) else messages


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        for line, row in enumerate(pyarrow.parquet.read_table(file).to_pylist(), start=1):
            yield line, row
        return
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        try:
            for line, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise TrainerError(f"{file}:{line}: must be a JSON object")
                yield line, row
        except json.JSONDecodeError as error:
            raise TrainerError(f"{file}:{line}: is not JSON: {error.msg}") from None
        except RecursionError:
            raise TrainerError(f"{file}:{line}: is nested too deep") from None
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise TrainerError(f"{file}: cannot be read: {error}") from None


class _WrongRow(Exception):  # noqa: N818
    """A row that cannot be used; the reader adds the place."""


def _rankings_of(row: Mapping[str, Any]) -> list[Ranking]:
    if "chosen" in row:
        messages, chosen, rejected = _pair(row)
        policies = (row.get("chosen_policy"), row.get("rejected_policy"))
        weight = _number(row, "weight", 1.0)
        return [
            Ranking(
                messages,
                [chosen, rejected],
                [1, 2],
                weight,
                str(row.get("rater", "")),
                policies,
                strength=_number(row, "margin", None),
            )
        ]
    if "rankings" in row:
        return _rankings_of_export(row)
    if "ranks" in row and "candidates" in row:  # the import format
        texts = [_candidate(each) for each in _list(row, "candidates")]
        ranks = _ranks(row["ranks"], len(texts))
        return [Ranking(_prompt(row, "prompt"), texts, ranks, 1.0, str(row.get("rater", "")))]
    raise _WrongRow("chosen: is missing, and so is rankings")


def _rankings_of_export(row: Mapping[str, Any]) -> list[Ranking]:
    messages = _prompt(row, "messages")
    candidates = _list(row, "candidates")
    if not all(
        isinstance(each, dict)
        and isinstance(each.get("id"), str)
        and isinstance(each.get("text"), str)
        for each in candidates
    ):
        raise _WrongRow("candidates: must be objects with id and text")
    names = [each["id"] for each in candidates]
    if len(set(names)) < len(names):
        raise _WrongRow("candidates: two have the same id")
    texts = [each["text"] for each in candidates]
    policies = tuple(each.get("policy") for each in candidates)
    found = []
    for number, ranking in enumerate(_list(row, "rankings")):
        given = ranking.get("ranks") if isinstance(ranking, dict) else None
        if not isinstance(given, dict) or set(given) != set(names):
            raise _WrongRow(f"rankings.{number}.ranks: must give every candidate a rank")
        ranks = _ranks([given[name] for name in names], len(names))
        weight = _number(ranking, "weight", 1.0)
        found.append(
            Ranking(
                messages,
                texts,
                ranks,
                weight,
                str(ranking.get("rater", "")),
                policies,
                strength=_number(ranking, "strength", None) if len(names) == 2 else None,
                axes=_axes(ranking.get("axes"), names),
            )
        )
    return found


def _axes(value: Any, names: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """Scores by candidate. A score of the best one alone orders nothing, and is left out."""
    given = value if isinstance(value, dict) else {}
    return {
        str(axis): tuple(_score(scores.get(name)) for name in names)
        for axis, scores in given.items()
        if isinstance(scores, dict)
    }


def _score(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else None


def _demonstrations_of(row: Mapping[str, Any]) -> list[Demonstration]:
    if "messages" in row and "rankings" not in row:
        messages = _messages(row, "messages")
        if messages[-1]["role"] != "assistant":
            raise _WrongRow("messages: must end with an assistant's message")
        return [Demonstration(messages)]
    if "chosen" in row:
        prompt, chosen, _ = _pair(row)
        return [Demonstration([*prompt, {"role": "assistant", "content": chosen}])]
    raise _WrongRow("messages: is missing")


def _prompts_of(row: Mapping[str, Any]) -> list[Prompt]:
    name = str(row.get("prompt_id") or row.get("id") or "")
    if "rankings" in row:
        return [Prompt(_prompt(row, "messages"), name)]
    if "messages" in row:
        messages = _messages(row, "messages")
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return [Prompt(_checked_prompt(messages, "messages"), name)]
    if "chosen" in row:
        return [Prompt(_pair(row)[0], name)]
    if "prompt" in row:
        return [Prompt(_prompt(row, "prompt"), name)]
    raise _WrongRow("prompt: is missing")


def _pair(row: Mapping[str, Any]) -> tuple[Messages, str, str]:
    """(messages, chosen, rejected) of any of the three forms of a comparison."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None:
        return (
            _prompt(row, "prompt"),
            _response("chosen", chosen),
            _response("rejected", rejected),
        )
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_transcripts(chosen, rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        one, other = (_messages(row, name) for name in ("chosen", "rejected"))
        if one[:-1] != other[:-1] or not one[:-1]:
            raise _WrongRow("rejected: must differ from chosen in the last message alone")
        _checked_prompt(one[:-1], "chosen")
        return one[:-1], one[-1]["content"], other[-1]["content"]
    raise _WrongRow("chosen and rejected: must both be strings, or both lists of messages")


def split_transcripts(chosen: str, rejected: str) -> tuple[Messages, str, str]:
    r"""Two transcripts (`\n\nHuman: … \n\nAssistant: …`) as a prompt and two responses.

    The prompt is what they share up to the last human turn before they part; a response is all that
    follows, which for the few pairs that part early holds the later turns as they stand.
    """
    turns = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        parts = MARKER.split(text)
        if parts[0] != "" or len(parts) < 3 or parts[1] != "Human":
            raise _WrongRow(f"{name}: a transcript starts with a blank line and 'Human:'")
        turns.append([(parts[i], parts[i + 1]) for i in range(1, len(parts), 2)])
    one, other = turns
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    while common and not (
        one[common - 1][0] == "Human"
        and len(one) > common
        and len(other) > common
        and one[common][0] == other[common][0] == "Assistant"
    ):
        common -= 1
    if common == 0:
        raise _WrongRow("rejected: shares no prompt with chosen")
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [{"role": roles[who], "content": said.strip()} for who, said in one[:common]]
    rests = []
    for each in turns:
        first, *others = each[common:]
        rest = first[1] + "".join(f"\n\n{who}:{said}" for who, said in others)
        rests.append(rest.strip())
    return messages, rests[0], rests[1]


def _messages(row: Mapping[str, Any], name: str) -> Messages:
    value = row.get(name)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise _WrongRow(f"{name}: must be a string or a list of messages")
    for number, message in enumerate(value):
        if (
            not isinstance(message, dict)
            or message.get("role") not in ("system", "user", "assistant")
            or not isinstance(message.get("content"), str)
        ):
            raise _WrongRow(f"{name}.{number}: must have a role and a content")
    return [{"role": each["role"], "content": each["content"]} for each in value]


def _prompt(row: Mapping[str, Any], name: str) -> Messages:
    return _checked_prompt(_messages(row, name), name)


def _checked_prompt(messages: Messages, name: str) -> Messages:
    if not messages or messages[-1]["role"] != "user":
        raise _WrongRow(f"{name}: must end with a user's message")
    return messages


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise _WrongRow(f"{name}: must be a list")
    return value


def _response(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        content = value[0].get("content")
        if isinstance(content, str):
            return content
    raise _WrongRow(f"{name}: must be a string, or a list of one assistant's message")


def _candidate(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise _WrongRow("candidates: must be strings, or objects with a text")
    return text


def _ranks(values: Any, count: int) -> list[int]:
    whole = isinstance(values, list) and all(
        isinstance(each, int) and not isinstance(each, bool) for each in values
    )
    if not whole or len(values) != count or (count and min(values) < 1):
        raise _WrongRow("ranks: must be whole numbers from 1, one for each candidate")
    return list(values)


@overload
def _number(row: Mapping[str, Any], name: str, default: float) -> float: ...


@overload
def _number(row: Mapping[str, Any], name: str, default: None) -> float | None: ...


def _number(row: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = row.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise _WrongRow(f"{name}: must be a number, 0 or more")
    return float(value)
