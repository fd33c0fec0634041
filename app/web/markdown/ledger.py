"""What of a text's bytes is shown, and what is hidden: nothing is passed over."""

import re
from collections.abc import Mapping
from html import escape

from app.web.markdown.code import MOST_COLOURED
from app.web.markdown.formulas import Formula

MOST_WEIGHED = 1000  # bytes of a block that say which way it runs

_PREFIX = re.compile(rb"[\s>]*")
_RTL = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_LETTER = re.compile(r"[^\W\d_]")
# Addresses and code are Latin in every language, and say nothing about it.
_NEUTRAL = re.compile(r"`[^`]*`|https?://\S+")


class CannotShowError(Exception):
    """The text is too much to render, or something of it would be lost: its source is shown."""


def is_mixed(text: str) -> bool:
    """Whether any of it runs from right to left."""
    return _RTL.search(text) is not None


def get_direction(text: str) -> str:
    """Which way most of its letters run; "auto", the browser's own rule, where it has none."""
    if text.isascii():
        return "ltr"
    words = _NEUTRAL.sub("", text)
    right_to_left = sum(1 for each in _RTL.findall(words) if each.isalpha())
    letters = len(_LETTER.findall(words))
    if not letters:
        return "auto"
    return "rtl" if right_to_left * 2 > letters else "ltr"


def named(value: object) -> tuple[str, object]:
    """(name, what is told of it) of a parser's tag: a string, or a mapping with one item."""
    if isinstance(value, Mapping):
        ((name, facts),) = value.items()
        return str(name), facts
    return str(value), None


def fact(facts: object, name: str) -> str:
    """One of the things that the parser tells of a tag."""
    return str(facts[name]) if isinstance(facts, Mapping) else ""


class Ledger:
    """A text's bytes up to `at` are accounted for: in `out` and `shown`, or hidden as markup."""

    def __init__(self, raw: bytes, formulas: list[Formula]) -> None:
        self.raw = raw
        self.formulas = formulas
        self.next_formula = 0
        self.at = 0  # everything before is shown or hidden
        self.out: list[str] = []
        self.shown: list[str] = []
        self.closing: list[str] = []  # what ends each open element
        self.kinds: list[str] = []
        self.quotes = 0
        self.fresh = False  # at the start of a line, where a quotation's marks may stand
        self.number = 0  # of the next item
        self.numbers: list[int] = []
        self.code: list[str] | None = None
        self.language = ""
        self.room = MOST_COLOURED
        self.image_end = 0
        self.in_head = False
        self.mixed = is_mixed(raw.decode())

    # --- what is shown, what is hidden

    def need(self, start: int) -> None:
        if start < self.at:
            raise CannotShowError("its parts overlap")

    def show(self, text: str) -> None:
        self.out.append(escape(text, quote=False))
        self.shown.append(text)

    def show_to(self, end: int) -> None:
        if end > self.at:
            self.show(self.raw[self.at : end].decode())
            self.at = end

    def show_lines(self, text: str) -> None:
        for number, line in enumerate(text.split("\n")):
            self.out.append("<br>\n" if number else "")
            self.show(line)

    def open(self, kind: str, tag: str, start: int, end: int, attributes: str = "") -> None:
        self.kinds.append(kind)
        self.closing.append(f"</{tag}>")
        outermost = kind in ("list", "quote", "table") and len(self.kinds) == 1
        if self.mixed and (outermost or kind in ("p", "h", "item", "cell", "html")):
            beginning = self.raw[start : min(end, start + MOST_WEIGHED)]
            attributes += f' dir="{get_direction(beginning.decode(errors="ignore"))}"'
        self.out.append(f"<{tag}{attributes}>")
        self.fresh = True

    def close(self) -> None:
        self.kinds.pop()
        self.out.append(self.closing.pop())

    def block_gap(self, end: int) -> None:
        """Between blocks: white space, a quotation's marks, and what the parser keeps to itself."""
        piece = self.raw[self.at : end]
        self.at = max(self.at, end)
        if not piece.strip():
            return
        lines = piece.decode().split("\n")
        if self.quotes:
            lines = [re.sub(rf"^(?:[ \t]*>){{0,{self.quotes}}}", "", line) for line in lines]
        left = "\n".join(line.strip() for line in lines).strip()
        if not left:
            return
        in_list = bool(self.kinds) and self.kinds[-1] == "list"
        self.out.append('<li class="as-written">' if in_list else '<p class="as-written">')
        self.show_lines(left)
        self.out.append("</li>" if in_list else "</p>\n")

    def gap(self, end: int) -> None:
        """Inside a line: the parser leaves out backslashes, which are shown, and a quotation's marks."""
        piece = self.raw[self.at : end]
        if not piece:
            return
        if self.fresh and self.quotes:
            marks = _PREFIX.match(piece)
            self.at += marks.end() if marks else 0
        if self.raw[self.at : end].strip():
            self.show_to(end)
        self.at = end

    def code_gap(self, end: int) -> None:
        piece = self.raw[self.at : end]
        if piece.strip() and not (self.quotes and _PREFIX.fullmatch(piece)):
            assert self.code is not None
            self.code.append(piece.decode())
        self.at = end
