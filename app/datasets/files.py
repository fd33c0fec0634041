"""Writing an export's files so that the same data gives the same bytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from app.datasets.format import FileDigest, FileEntry
from app.datasets.schemas import SPLITS

KINDS = ("rankings", "comparisons", "hh", "demonstrations")

# What each column is, for the manifest: names and types as a reader of JSON sees them.
MESSAGES = "list of {role: string, content: string}"
SCHEMA: dict[str, dict[str, str]] = {
    "rankings": {
        "prompt_id": "string: the sender's id, or ours",
        "messages": MESSAGES,
        "candidates": "list of {id: string, text: string, policy: string or null}",
        "rankings": "list of {rater: string (pseudonym), ranks: {candidate id: integer, 1 is best, "
        "equal ranks are ties}, strength: integer or null, keep_gaps: boolean, axes: {name: number}, "
        "flags: list of string, rationale: string or null, presented: list of candidate ids in the order "
        "shown, or null where that is not known, blind: boolean, or null where that is not known, timed: "
        "boolean, seconds: number or null, weight: number}",
    },
    "comparisons": {
        "prompt": MESSAGES,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "prompt_id": "string",
        "rater": "string (pseudonym)",
        "margin": "number: the strength, or how many dense ranks apart; with keep_gaps, ranks as given",
        "weight": "number",
        "chosen_policy": "string or null",
        "rejected_policy": "string or null",
    },
    "hh": {"chosen": "string: a transcript", "rejected": "string: a transcript"},
    "demonstrations": {
        "messages": f"{MESSAGES}, the last by the assistant",
        "prompt_id": "string",
        "source": "string: rewrite or best",
    },
}


def encode(row: Mapping[str, object]) -> bytes:
    """A row as one line of JSON: its own key order, no spaces to spare, real characters."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass
class LinesFile:
    """A JSONL file being written, with its hash and row count."""

    path: Path
    rows: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _file: IO[bytes] | None = None

    def write(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows."""
        self._file = self._file or self.path.open("wb")
        for row in rows:
            line = encode(row)
            self._digest.update(line)
            self._file.write(line)
        self.rows += len(rows)

    def close(self) -> FileEntry:
        """Finish the file; its entry in the manifest."""
        self.write(())
        assert self._file is not None
        self._file.close()
        size = self.path.stat().st_size
        return {"rows": self.rows, "bytes": size, "sha256": self._digest.hexdigest()}


class ParquetFile:
    """A Parquet file of comparisons being written."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        types = {
            **dict.fromkeys(("prompt", "chosen", "rejected"), messages),
            **dict.fromkeys(("margin", "weight"), pa.float64()),
        }
        names = SCHEMA["comparisons"]
        self._schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
        self.path = path
        self.rows = 0
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows, as one row group."""
        import pyarrow as pa

        if rows:
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))
            self.rows += len(rows)

    def close(self) -> FileEntry:
        """Finish the file; its entry in the manifest."""
        self._writer.close()
        return {"rows": self.rows, **describe(self.path)}


def describe(path: Path) -> FileDigest:
    """A file's size and hash."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


class ExportFiles:
    """All the files of an export, a set for each split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = {
            (kind, split): LinesFile(folder / f"{kind}.{split}.jsonl")
            for kind in KINDS
            for split in SPLITS
        }
        self.parquet = {
            split: ParquetFile(folder / f"comparisons.{split}.parquet") for split in SPLITS
        }

    def close(self) -> dict[str, FileEntry]:
        """Finish every file; their entries in the manifest, by name."""
        entries = {file.path.name: file.close() for file in self.lines.values()}
        entries |= {file.path.name: file.close() for file in self.parquet.values()}
        return dict(sorted(entries.items()))
