"""A mapping: a small file that says which columns of somebody's data are what, where no layout has them.

    id = "idx"
    prompt = { join = ["instruction", "input"], with = "\\n\\n" }
    candidates = [
      { text = "response1", policy = { path = "cmp_key", before = "_" } },
      { text = "response2", policy = { path = "cmp_key", after = "_" } },
    ]
    metadata = ["motivation_app"]
    drop = ["row_number"]

    [[rankings]]
    rater = { is = "annotator 1" }
    ranks = { path = "annotator1", means = { "0" = [1, 1], "1" = [1, 2], "2" = [2, 1] } }

A value is a path into the record (`question.full_text`, `answers[0].text`), a text that `is` the same for
every record, several paths joined, or a path's text before or after a mark. Columns that the mapping does
not name are refused, or kept as metadata where the import asks for that.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import InvalidInput
from app.inputs import describe
from app.prompts.layout import Layout, Rows, Use, rank_scores, to_number
from app.prompts.parse import FieldError, Row

STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Same(_Part):
    """One text for every record."""

    text: str = Field(alias="is")


class Joined(_Part):
    """Several columns' texts, those that are not empty, with something between."""

    join: Annotated[list[str], Field(min_length=1)]
    between: str = Field(default="\n\n", alias="with")


class Cut(_Part):
    """A column's text before or after the first place where a mark stands."""

    path: str
    before: str | None = None
    after: str | None = None


Value = str | Same | Joined | Cut


class Response(_Part):
    """A candidate."""

    text: Value
    policy: Value | None = None


class Meaning(_Part):
    """A column whose few values each mean ranks."""

    path: str
    means: dict[str, list[int]]


class Scores(_Part):
    """A score of each candidate: the highest is best, or the lowest."""

    scores: Annotated[list[str], Field(min_length=2)]
    best: Literal["highest", "lowest"] = "highest"


class Judgment(_Part):
    """One rater's ranking of the candidates."""

    rater: Value
    # The ranks themselves: a path to their list, or a path for each candidate.
    ranks: str | list[str] | Meaning | Scores
    strength: str | None = None
    rationale: Value | None = None
    seconds: str | None = None
    at: str | None = None


class MappingFile(_Part):
    """The file."""

    id: Value | None = None
    prompt: Value
    candidates: list[Response | str] = []
    rankings: list[Judgment] = []
    priority: str | None = None
    metadata: list[str] = []
    drop: list[str] = []


def load_mapping(path: Path) -> Layout:
    """The layout that a mapping file describes. Raises InvalidInput, naming its place in the file."""
    try:
        with path.open("rb") as file:
            mapping = MappingFile.model_validate(tomllib.load(file))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", field=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"is no TOML: {error}", field=str(path)) from None
    except ValidationError as error:
        where, message = describe(error.errors()[0])
        raise InvalidInput(message, field=f"{path}: {where}") from None
    count = len(mapping.candidates)
    for number, each in enumerate(mapping.rankings):
        for ranks in _stated(each):
            if len(ranks) != count:
                raise InvalidInput(
                    f"must have one for each of the {count} candidates",
                    field=f"{path}: rankings.{number}.ranks",
                )
    paths = list(_paths(mapping))
    for path_in in paths:
        if not _steps(path_in):
            raise InvalidInput(f"{path_in!r} is no path into a record", field=str(path))
    columns = frozenset(str(_steps(each)[0]) for each in paths)
    return Layout(
        name=path.stem,
        title=f"the mapping {path.name}",
        needs=columns,
        knows=frozenset([*mapping.metadata, *mapping.drop]),
        make=lambda use: _make(mapping, columns, use),
    )


def _stated(judgment: Judgment) -> Iterator[Sequence[object]]:
    if isinstance(judgment.ranks, list):
        yield judgment.ranks
    elif isinstance(judgment.ranks, Meaning):
        yield from judgment.ranks.means.values()
    elif isinstance(judgment.ranks, Scores):
        yield judgment.ranks.scores


def _paths(mapping: MappingFile) -> Iterator[str]:
    values: list[Value | None] = [mapping.id, mapping.prompt]
    for response in mapping.candidates:
        values += [response] if isinstance(response, str) else [response.text, response.policy]
    for judgment in mapping.rankings:
        values += [judgment.rater, judgment.rationale]
        yield from (
            each for each in (judgment.strength, judgment.seconds, judgment.at) if each is not None
        )
        if isinstance(judgment.ranks, Meaning):
            yield judgment.ranks.path
        elif isinstance(judgment.ranks, Scores):
            yield from judgment.ranks.scores
        else:
            yield from [judgment.ranks] if isinstance(judgment.ranks, str) else judgment.ranks
    if mapping.priority is not None:
        yield mapping.priority
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Joined):
            yield from value.join
        elif isinstance(value, Cut):
            yield value.path


def _steps(path: str) -> list[str | int]:
    """`answers[0].text` as ["answers", 0, "text"]; empty where it is no path."""
    found = list(STEP.finditer(path))
    if "".join(each.group() for each in found) != path or path.startswith((".", "[")):
        return []
    return [int(each[2]) if each[2] else each[1] for each in found]


def _get(record: Mapping[str, object], path: str) -> object:
    """What stands there, or None where something on the way is missing."""
    value: object = record
    for step in _steps(path):
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _value(record: Mapping[str, object], value: Value | None) -> object:
    match value:
        case None:
            return None
        case str():
            return _get(record, value)
        case Same():
            return value.text
        case Joined():
            texts = [_get(record, each) for each in value.join]
            for path, each in zip(value.join, texts, strict=True):
                if each is not None and not isinstance(each, str):
                    raise FieldError(path, "must be a text, to be joined with others")
            return value.between.join(str(each) for each in texts if each)
        case Cut():
            text = _get(record, value.path)
            if not isinstance(text, str):
                raise FieldError(value.path, "must be a text, to be cut")
            for mark, part in ((value.before, 0), (value.after, 2)):
                if mark is not None:
                    if mark not in text:
                        raise FieldError(value.path, f"has no {mark!r} to be cut at")
                    text = text.partition(mark)[part]
            return text


def _make(mapping: MappingFile, columns: frozenset[str], use: Use) -> Rows:
    record = dict(use.first)
    for name in (*columns - set(mapping.metadata), *mapping.drop):
        use.take(name)
    candidates: list[Row] = []
    for response in mapping.candidates:
        if isinstance(response, str):
            candidates.append({"text": _get(record, response)})
            continue
        one: Row = {"text": _value(record, response.text)}
        policy = _value(record, response.policy)
        candidates.append(one if policy is None else {**one, "policy": policy})
    row: Row = {
        "id": _value(record, mapping.id),
        "prompt": _value(record, mapping.prompt),
        "candidates": candidates or None,
        "priority": None if mapping.priority is None else _get(record, mapping.priority),
    }
    rows = []
    for judgment in mapping.rankings:
        ranks = _ranks(record, judgment)
        if ranks is None:  # this rater did not judge this record
            continue
        rows.append(
            use.row(
                None,
                **row,
                rater=_value(record, judgment.rater),
                ranks=ranks,
                rationale=_value(record, judgment.rationale),
                **{
                    name: _get(record, path)
                    for name, path in (
                        ("strength", judgment.strength),
                        ("seconds", judgment.seconds),
                        ("at", judgment.at),
                    )
                    if path is not None
                },
            )
        )
    if len(rows) > 1 and row["id"] is None:
        raise FieldError("id", "is needed where several raters judge one record")
    return rows or [use.row(None, **row)]


def _ranks(record: Mapping[str, object], judgment: Judgment) -> object:
    said = judgment.ranks
    if isinstance(said, str):
        return _get(record, said)
    if isinstance(said, list):
        ranks = [_get(record, path) for path in said]
        return None if all(each is None for each in ranks) else ranks
    if isinstance(said, Scores):
        found = [_get(record, path) for path in said.scores]
        if all(each is None for each in found):
            return None
        sign = 1 if said.best == "highest" else -1
        return rank_scores(
            [sign * to_number(path, each) for path, each in zip(said.scores, found, strict=True)]
        )
    value = _get(record, said.path)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    key = str(value).lower() if isinstance(value, bool) else str(value)
    if key not in said.means:
        raise FieldError(said.path, f"{key[:50]!r} is none of {', '.join(said.means)}")
    return list(said.means[key])
