"""Reading what people collected: exports, and the files of others.

Rankings are the common form: a comparison is a ranking of two. What a file holds is told by its rows, not
by its name. Every error names the file, the line and the field.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.data.examples import (
    SPLITS,
    Data,
    Demonstration,
    Example,
    Messages,
    Prompt,
    Ranking,
    split_of,
)
from trainer.data.messages import UnusableRow, WrongRow
from trainer.data.rows import demonstrations_of, doubts_of, prompts_of, rankings_of
from trainer.data.values import JsonObject
from trainer.errors import TrainerError, first_line

# A response may begin with the words of its prompt; where all of so many do, they are not responses alone.
ECHOES_BY_CHANCE = 9


def read_rankings(path: str | Path) -> Data[Ranking]:
    """Rankings and comparisons of an export directory or a file.

    A single candidate, and a ranking of weight 0, carry nothing: they are left out, and counted. Rankings
    in which all are tied stay, and are counted too.
    """
    data = _read(Path(path), ("rankings", "comparisons", "hh"), rankings_of)
    _check_echoes(path, data, lambda row: row.candidates)
    for split, rows in data.splits.items():
        kept = []
        for row in rows:
            if len(row.candidates) < 2:
                data.left_out.add("single candidate")
            elif row.weight == 0:
                data.left_out.add("weight 0")
            else:
                kept.append(row)
                if len(set(row.ranks)) == 1:
                    data.left_out.add("all tied, kept")
        data.splits[split] = kept
    return data


def read_demonstrations(path: str | Path) -> Data[Demonstration]:
    """Demonstrations of an export directory or a file; of comparisons, the preferred response."""
    data = _read(Path(path), ("demonstrations", "comparisons", "hh"), demonstrations_of)
    _check_echoes(path, data, lambda row: [row.messages[-1]["content"]])
    return data


def read_prompts(path: str | Path) -> Data[Prompt]:
    """Prompts: of an import file, or of any of the other files, each once."""
    data = _read(Path(path), ("rankings", "demonstrations", "comparisons", "hh"), prompts_of)
    for split, rows in data.splits.items():
        once: dict[str, Prompt] = {}
        for row in rows:
            once.setdefault(json.dumps(row.messages, sort_keys=True), row)
        data.left_out.add("prompt that stands there already", len(rows) - len(once))
        data.splits[split] = list(once.values())
    return data


def _read(
    path: Path, kinds: Sequence[str], convert: Callable[[JsonObject], list[Example]]
) -> Data[Example]:
    if not path.exists():
        raise TrainerError(f"{path}: there is no such file or directory")
    digest = hashlib.sha256()
    data: Data[Example] = Data({split: [] for split in SPLITS}, "")
    if path.is_dir():
        for split in SPLITS:
            for file in _files_of(path, kinds, split):
                # With its name and size: a row that moves from one split to the next is other data.
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
                digest.update(file.read_bytes())
                _read_file(file, split, convert, data)
    else:
        named = next((split for split in SPLITS if f".{split}." in path.name), None)
        digest.update(path.read_bytes())
        _read_file(path, named, convert, data)
    if not any(data.splits.values()):
        said = data.left_out.says()
        raise TrainerError(f"{path}: holds no {kinds[0]}" + (f"; left out: {said}" if said else ""))
    data.hash = digest.hexdigest()
    return data


def _check_echoes(
    path: str | Path, data: Data[Example], texts_of: Callable[[Example], Sequence[str]]
) -> None:
    """Count the rows whose responses begin with their prompt. Raises TrainerError where all of many do.

    A prompt that each response repeats would be read twice.
    """
    rows = [row for some in data.splits.values() for row in some]
    echoes = 0
    for row in rows:
        asked = _prompt_of(row)[-1]["content"].strip()
        if asked and all(text.strip().startswith(asked) for text in texts_of(row)):
            echoes += 1
    if echoes == len(rows) > ECHOES_BY_CHANCE:
        raise TrainerError(
            f"{path}: every response begins with its prompt: give the response alone, or messages"
        )
    data.left_out.add("response that begins with its prompt, kept", echoes)


def _files_of(folder: Path, kinds: Sequence[str], split: str) -> list[Path]:
    """The files of the first kind that the directory has for any split."""
    for kind in kinds:
        if any(_find(folder, kind, each) for each in SPLITS):
            file = _find(folder, kind, split)
            return [file] if file else []
    names = ", ".join(f"{kind}.{split}.jsonl" for kind in kinds)
    raise TrainerError(f"{folder}: holds no file that this stage reads (none of {names})")


def _find(folder: Path, kind: str, split: str) -> Path | None:
    for ending in ("jsonl", "jsonl.gz", "parquet"):
        file = folder / f"{kind}.{split}.{ending}"
        if file.exists():
            return file
    return None


def _read_file(
    file: Path,
    split: str | None,
    convert: Callable[[JsonObject], list[Example]],
    data: Data[Example],
) -> None:
    for line, row in _rows(file):
        place = f"{file.name}:{line}"
        try:
            examples = convert(row)
        except WrongRow as error:
            raise TrainerError(f"{file}:{line}: {error}") from None
        except UnusableRow as reason:
            data.left_out.add(str(reason), place=place)
            continue
        doubt = doubts_of(row)
        if doubt is not None:
            data.left_out.add(doubt)
        for example in examples:
            part = split or split_of(_prompt_of(example))
            data.splits[part].append(replace(example, source=place))


def _prompt_of(example: Ranking | Demonstration | Prompt) -> Messages:
    return example.messages[:-1] if isinstance(example, Demonstration) else example.messages


def _rows(file: Path) -> Iterator[tuple[int, JsonObject]]:
    """Line (or row of a Parquet file) and what stands there."""
    return _parquet_rows(file) if file.suffix.lower() == ".parquet" else _json_rows(file)


def _parquet_rows(file: Path) -> Iterator[tuple[int, JsonObject]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise TrainerError(f"{file}: pyarrow, which reads Parquet, is not installed") from None
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TrainerError(f"{file}: cannot be read: {first_line(error)}") from None
    yield from enumerate(rows, start=1)


def _json_rows(file: Path) -> Iterator[tuple[int, JsonObject]]:
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    with opener(file, "rb") as lines:
        number = 0
        try:
            for line in lines:
                number += 1
                row = _json_row(file, number, line)
                if row is not None:
                    yield number, row
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise TrainerError(f"{file}: cannot be read: {first_line(error)}") from None


def _json_row(file: Path, number: int, line: bytes) -> JsonObject | None:
    """A line's object; None of a blank line. Raises TrainerError for anything else."""
    where = f"{file}:{number}"
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        if not text.strip():
            return None
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise TrainerError(f"{where}: is not UTF-8: {error.reason}") from None
    except json.JSONDecodeError as error:
        raise TrainerError(f"{where}: is not JSON: {error.msg}") from None
    except ValueError:  # a number of thousands of digits
        raise TrainerError(f"{where}: holds a number that is too long") from None
    except RecursionError:
        raise TrainerError(f"{where}: is nested too deep") from None
    if not isinstance(row, dict):
        raise TrainerError(f"{where}: must be a JSON object, one a line")
    check_characters(where, text, row)
    return row


def check_characters(where: str, text: str, row: JsonObject) -> None:
    """Raise TrainerError where an escape stands for half a character: no tokenizer can read it."""
    if "\\u" not in text:
        return
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise TrainerError(
            f"{where}: holds half a character (a surrogate that stands alone)"
        ) from None
    except RecursionError:
        raise TrainerError(f"{where}: is nested too deep") from None
