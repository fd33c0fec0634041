"""Markdown made into HTML by a renderer that accounts for every byte.

The parser says which bytes of the source each of its events stands for. Here every byte is either shown or
hidden, and only what is certainly markup is hidden: delimiters of emphasis, fences, list markers. Whatever
else the parser leaves out (a link definition, a table's surplus cells, a backslash, the asterisks of 2*3*4)
is shown as it was written. The time it takes grows with the text's length only.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import cast

import pyromark

from app.web.markdown.code import colour
from app.web.markdown.formulas import Formula, find_formulas
from app.web.markdown.ledger import CannotShowError, fact, named
from app.web.markdown.words import Words

# Each event is a few microseconds with the interpreter held; nobody reads a text that has more of them.
MOST_EVENTS = 20_000
DEEPEST = 40

_OPTIONS = pyromark.Options.ENABLE_TABLES | pyromark.Options.ENABLE_STRIKETHROUGH

_ATX = re.compile(rb"[ \t]*#{1,6}(?=[ \t\r\n]|$)")
_UNDERLINE = re.compile(rb"[\s>]*(?:={3,}|-{3,})\s*$")
_SHORT_UNDERLINE = re.compile(rb"\n[ \t>]*(?:={1,2}|-{1,2})[ \t]*\r?\n?$")
_MARKER = re.compile(rb"[ \t]*(?:[-+*]|(\d{1,9})([.)]))")
_FENCE = re.compile(rb"[ \t]*(?:`{3,}|~{3,})")
_CLOSING_FENCE = re.compile(rb"[\s>]*(?:`{3,}|~{3,})\s*$")
_RULE = re.compile(rb"[\s>]*(?:[-_*][ \t]*){3,}\s*$")
_TABLE_LINES = re.compile(rb"[\s|:>-]*")
_QUOTE_MARK = re.compile(rb"[ \t]*>")
_PIPE = re.compile(r"(?<!\\)\|")


def render_html(text: str) -> tuple[str, str]:
    """(HTML that is not sanitised yet, every character that it shows). Raises CannotShowError."""
    raw = text.encode()
    formulas = _formulas(raw, text)
    return Renderer(raw, formulas).run(_masked(raw, formulas).decode())


def _events(text: str) -> Iterator[tuple[str | Mapping[str, object], int, int]]:
    for number, (event, place) in enumerate(pyromark.events_with_range(text, options=_OPTIONS)):
        if number >= MOST_EVENTS:
            raise CannotShowError("too long")
        yield cast("str | Mapping[str, object]", event), place["start"], place["end"]


def _formulas(raw: bytes, text: str) -> list[Formula]:
    if not any(each in raw for each in (b"$", rb"\(", rb"\[")):
        return []
    code = [
        (start, end)
        for event, start, end in _events(text)
        if isinstance(event, Mapping)
        and ("Code" in event or named(event.get("Start"))[0] == "CodeBlock")
    ]
    return find_formulas(raw, code)


def _masked(raw: bytes, formulas: list[Formula]) -> bytes:
    """The source with a word of the same length in each formula's place: no markup is read in it."""
    if not formulas:
        return raw
    masked = bytearray(raw)
    for each in formulas:
        masked[each.start : each.end] = b"x" * (each.end - each.start)
    return bytes(masked)


class Renderer(Words):
    """Adds blocks, and follows the parser's events."""

    def run(self, masked: str) -> tuple[str, str]:
        for event, start, end in _events(masked):
            if end <= self.image_end:
                continue
            if isinstance(event, str):
                self.atom(event, start, end)
                continue
            ((what, value),) = event.items()
            name, facts = named(value)
            if what == "Start":
                self.start(name, facts, start, end)
            elif what == "End":
                self.end(name, end)
            else:
                self.piece(what, name, start, end)
        self.block_gap(len(self.raw))
        return "".join(self.out), "".join(self.shown)

    def start(self, name: str, facts: object, start: int, end: int) -> None:
        known = {
            "Paragraph": self.start_paragraph,
            "Heading": self.start_heading,
            "BlockQuote": self.start_blockquote,
            "List": self.start_list,
            "Item": self.start_item,
            "CodeBlock": self.start_codeblock,
            "HtmlBlock": self.start_htmlblock,
            "Table": self.start_table,
            "TableHead": self.start_row,
            "TableRow": self.start_row,
            "TableCell": self.start_cell,
            "Emphasis": self.start_emphasis,
            "Strong": self.start_strong,
            "Strikethrough": self.start_strikethrough,
            "Link": self.start_link,
            "Image": self.start_image,
        }
        if name not in known or len(self.kinds) >= DEEPEST:
            raise CannotShowError("nested too deeply, or of a kind that is not known here")
        self.need(start)
        self.in_head |= name == "TableHead"
        known[name](facts, start, end)

    # --- blocks

    def start_paragraph(self, _: object, start: int, end: int) -> None:
        self.block_gap(start)
        self.open("p", "p", start, end)

    def start_heading(self, facts: object, start: int, end: int) -> None:
        self.block_gap(start)
        marker = _ATX.match(self.raw, start, end)
        # One or two signs under a line are more often a sum's than a heading's.
        short = marker is None and _SHORT_UNDERLINE.search(self.raw, start, end)
        self.open("p" if short else "h", "p" if short else fact(facts, "level").lower(), start, end)
        if marker:
            self.at = marker.end()

    def start_blockquote(self, _: object, start: int, end: int) -> None:
        self.block_gap(start)
        self.open("quote", "blockquote", start, end)
        self.quotes += 1
        marks = _QUOTE_MARK.match(self.raw, start)
        self.at = marks.end() if marks else start

    def start_list(self, first: object, start: int, end: int) -> None:
        self.block_gap(start)
        marker = _MARKER.match(self.raw, start)
        if not isinstance(first, int):
            sign = marker[0].strip() if marker else b"*"
            name = {b"-": ' class="dash"', b"+": ' class="plus"'}.get(sign, "")
            self.open("list", "ul", start, end, name)
        else:
            name = ' class="paren"' if marker and marker[2] == b")" else ""
            self.open("list", "ol", start, end, f' start="{first}"{name}' if first != 1 else name)
        self.numbers.append(self.number)
        self.number = first if isinstance(first, int) else 0

    def start_item(self, _: object, start: int, end: int) -> None:
        self.block_gap(start)
        marker = _MARKER.match(self.raw, start)
        if marker is None:
            raise CannotShowError("a list's item has no marker")
        digits = (marker[1] or b"").decode()
        # The numbers are the writer's, not counted anew.
        if digits and str(int(digits)) != digits:
            self.open("item", "li", start, end, ' class="as-written"')
            self.show(f"{marker[0].decode().strip()} ")
        else:
            other = digits and int(digits) != self.number
            self.open("item", "li", start, end, f' value="{digits}"' if other else "")
        self.number = int(digits or 0) + 1
        self.at = marker.end()

    def start_codeblock(self, kind: object, start: int, _end: int) -> None:
        self.block_gap(start)
        self.code, self.language = [], ""
        self.out.append("<pre>")
        self.kinds.append("code")
        self.closing.append("</code></pre>\n")
        if kind != "Indented":
            fence = _FENCE.match(self.raw, start)
            self.at = fence.end() if fence else start
            line = self.raw.find(b"\n", self.at)
            line = len(self.raw) if line < 0 else line
            told = self.raw[self.at : line].decode().strip()
            self.at = line
            if told:
                self.language = told.split()[0]
                self.out.append('<span class="language">')
                self.show(told)
                self.out.append("</span>\n")
        self.out.append("<code>")

    def start_htmlblock(self, _: object, start: int, end: int) -> None:
        self.block_gap(start)
        self.code = []
        self.open("html", "p", start, end, ' class="as-written"')

    def start_table(self, _: object, start: int, end: int) -> None:
        self.block_gap(start)
        self.open("table", "table", start, end)

    def start_row(self, _: object, start: int, end: int) -> None:
        self.table_gap(start)
        self.out.append("<thead>" if self.in_head else "")
        self.open("row", "tr", start, end)

    def start_cell(self, _: object, start: int, end: int) -> None:
        self.table_gap(start)
        self.open("cell", "th" if self.in_head else "td", start, end)

    def table_gap(self, end: int) -> None:
        piece = self.raw[self.at : end]
        if not _TABLE_LINES.fullmatch(piece):
            self.out.append("<tr><td>" if self.kinds[-1] == "table" else "<td>")
            self.show(piece.decode().strip())
            self.out.append("</td></tr>" if self.kinds[-1] == "table" else "</td>")
        self.at = end

    def surplus_cells(self, end: int) -> None:
        """Cells beyond the header's: the parser drops them."""
        left = self.raw[self.at : end].decode().strip().removeprefix("|").removesuffix("|")
        if left.strip("|> \t"):
            for cell in _PIPE.split(left):
                self.out.append("<td>")
                self.show(cell.strip())
                self.out.append("</td>")
        self.at = end

    def end(self, name: str, end: int) -> None:
        if not self.kinds:
            raise CannotShowError("its parts do not match")
        kind = self.kinds[-1]
        if kind == "literal":
            self.end_literal(end)
        elif kind == "words":
            self.end_words(end)
        elif kind == "link":
            self.end_link(end)
        elif kind in ("p", "h"):
            self.end_line(end)
        elif kind in ("code", "html"):
            self.end_code(kind, end)
        elif kind == "cell":
            self.gap(end)
            self.close()
        elif kind == "row":
            self.surplus_cells(end)
            self.close()
            self.out.append("</thead>" if name == "TableHead" else "")
            self.in_head = False
        elif kind == "table":
            self.table_gap(end)
            self.close()
        else:
            self.block_gap(end)
            self.quotes -= kind == "quote"
            self.number = self.numbers.pop() if kind == "list" else self.number
            self.close()
        self.fresh = False

    def end_line(self, end: int) -> None:
        tail = self.raw[self.at : end]
        if self.kinds[-1] == "h" and _UNDERLINE.match(tail):
            self.at = end
        elif tail.strip():
            self.out.append("<br>\n" if tail.lstrip(b" \t").startswith((b"\n", b"\r")) else "")
            self.fresh = True
            self.gap(end)
        self.at = end
        self.close()
        self.out.append("\n")

    def end_code(self, kind: str, end: int) -> None:
        if kind == "code" and _CLOSING_FENCE.match(self.raw[self.at : end]):
            self.at = end
        self.code_gap(end)
        code = "".join(self.code or [])
        self.code = None
        self.shown.append(code)
        if kind == "html":
            self.out.append(escape(code.strip("\n"), quote=False))
        else:
            coloured = colour(code, self.language, self.room)
            self.room -= len(code) if "<span" in coloured else 0
            self.out.append(coloured)
        self.close()

    # --- pieces of a line

    def atom(self, event: str, start: int, end: int) -> None:
        self.need(start)
        if event == "Rule":
            self.block_gap(start)
            self.out.append("<hr>\n")
            if not _RULE.match(self.raw[start:end]):
                raise CannotShowError("a rule that is none")
            self.at = end
            return
        self.gap(start)
        if self.raw[start:end].lstrip().startswith(b"\\"):
            self.show("\\")
        self.out.append("<br>\n")
        self.at = end
        self.fresh = True

    def piece(self, what: str, value: str, start: int, end: int) -> None:
        if start == end:
            return
        self.need(start)
        if self.code is not None:
            self.code_gap(start)
            written = self.raw[start:end].decode()
            self.code.append(value if value.split() == written.split() else written)
            self.at = end
            return
        self.gap(start)
        if what == "Code":
            self.inline_code(value, start, end)
        elif what == "Text":
            self.words(value, start, end)
        else:
            self.show_to(end)
        self.at = end
        self.fresh = False
