"""The shapes of prompts at the edge."""

from pydantic import BaseModel


class RowErrorOut(BaseModel):
    """A row that was not imported, and why."""

    line: int
    field: str
    message: str


class ImportReport(BaseModel):
    """What became of an import's rows: every one is in exactly one of the three."""

    accepted: int = 0
    # Rows whose id was there already: left as they were.
    duplicates: int = 0
    rejected: list[RowErrorOut] = []
    # What the file was read as, where that had to be recognised.
    notes: list[str] | None = None
