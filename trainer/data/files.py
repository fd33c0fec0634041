"""Reading what people collected: exports, and the files of others.

Rankings are the common form: a comparison is a ranking of two. What a file holds is told by its rows, not
by its name. Every error names the file, the line and the field.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
from trainer.data.rows import WrongRow, demonstrations_of, prompts_of, rankings_of
from trainer.data.values import JsonObject
from trainer.errors import TrainerError


def read_rankings(path: str | Path) -> Data[Ranking]:
    """Rankings and comparisons of an export directory or a file.

    A single candidate, and a ranking of weight 0, carry nothing: they are left out, and counted. Rankings
    in which all are tied stay, and are counted too.
    """
    data = _read(Path(path), ("rankings", "comparisons", "hh"), rankings_of)
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


def read_demonstrations(path: str | Path) -> Data[Demonstration]:
    """Demonstrations of an export directory or a file; of comparisons, the preferred response."""
    return _read(Path(path), ("demonstrations", "comparisons", "hh"), demonstrations_of)


def read_prompts(path: str | Path) -> Data[Prompt]:
    """Prompts: of an import file, or of any of the other files, each once."""
    data = _read(Path(path), ("rankings", "demonstrations", "comparisons", "hh"), prompts_of)
    for split, rows in data.splits.items():
        once = {json.dumps(row.messages, sort_keys=True): row for row in rows}
        data.splits[split] = list(once.values())
    return data


def _read(
    path: Path, kinds: Sequence[str], convert: Callable[[JsonObject], list[Example]]
) -> Data[Example]:
    if not path.exists():
        raise TrainerError(f"{path}: there is no such file or directory")
    digest = hashlib.sha256()
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    if path.is_dir():
        for split in SPLITS:
            for file in _files_of(path, kinds, split):
                # With its name and size: a row that moves from one split to the next is other data.
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
                digest.update(file.read_bytes())
                _read_file(file, split, convert, splits)
    else:
        named = next((split for split in SPLITS if f".{split}." in path.name), None)
        digest.update(path.read_bytes())
        _read_file(path, named, convert, splits)
    if not any(splits.values()):
        raise TrainerError(f"{path}: holds no {kinds[0]}")
    return Data(splits, digest.hexdigest())


def _files_of(folder: Path, kinds: Sequence[str], split: str) -> list[Path]:
    """The files of the first kind that the directory has for any split."""
    for kind in kinds:
        if any(_find(folder, kind, each) for each in SPLITS):
            file = _find(folder, kind, split)
            return [file] if file else []
    names = ", ".join(f"{kind}.{split}.jsonl" for kind in kinds)
    raise TrainerError(f"{folder}: is no export directory (it has none of {names})")


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
    splits: dict[str, list[Example]],
) -> None:
    for line, row in _rows(file):
        try:
            for example in convert(row):
                splits[split or split_of(_prompt_of(example))].append(example)
        except WrongRow as error:
            raise TrainerError(f"{file}:{line}: {error}") from None


def _prompt_of(example: Ranking | Demonstration | Prompt) -> Messages:
    return example.messages[:-1] if isinstance(example, Demonstration) else example.messages


def check_characters(file: Path, line: int, text: str, row: JsonObject) -> None:
    """Raise TrainerError where an escape stands for half a character: no tokenizer can read it."""
    if "\\u" not in text:
        return
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise TrainerError(
            f"{file}:{line}: holds half a character (a surrogate that stands alone)"
        ) from None


def _rows(file: Path) -> Iterator[tuple[int, JsonObject]]:
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
                check_characters(file, line, text, row)
                yield line, row
        except json.JSONDecodeError as error:
            raise TrainerError(f"{file}:{line}: is not JSON: {error.msg}") from None
        except RecursionError:
            raise TrainerError(f"{file}:{line}: is nested too deep") from None
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise TrainerError(f"{file}: cannot be read: {error}") from None
