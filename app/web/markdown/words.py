"""Words in a line: emphasis, links, code and formulas, where they are sure to be meant."""

import re
from html import escape

from app.web.markdown.formulas import Formula, text_of, typeset
from app.web.markdown.ledger import Ledger, fact

_TICKS = re.compile(rb"`+")
# What it stands for is shown, where that is something to see.
_ENTITY = re.compile(r"&#?\w+;")
_SAFE_ADDRESS = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
# Scripts without spaces between words: emphasis begins and ends inside of what looks like one word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\uff66-\uffdc]"
)
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}|[\u2e80-\ud7ff]")
_IDENTIFIER = re.compile(r"[a-z0-9_]+")
_WORDS = {"Emphasis": ("em", 1), "Strong": ("strong", 2), "Strikethrough": ("s", 2)}


class Words(Ledger):
    """Adds what stands inside a line."""

    def start_emphasis(self, _: object, start: int, end: int) -> None:
        self.emphasise("Emphasis", start, end)

    def start_strong(self, _: object, start: int, end: int) -> None:
        self.emphasise("Strong", start, end)

    def start_strikethrough(self, _: object, start: int, end: int) -> None:
        self.emphasise("Strikethrough", start, end)

    def emphasise(self, name: str, start: int, end: int) -> None:
        self.gap(start)
        tag, width = _WORDS[name]
        if name == "Strikethrough" and self.raw[start : start + 2] != b"~~":
            width = 1
        if width != _WORDS[name][1] or self.is_operator(start, end, width):
            self.kinds.append("literal")
            self.closing.append(str(width))
            self.show_to(start + width)
        else:
            self.open("words", tag, start, end)
            self.closing[-1] += f"\0{width}"
            self.at = start + width
        self.fresh = False

    def is_operator(self, start: int, end: int, width: int) -> bool:
        """Whether these delimiters could be something else: 2*3*4, x**y**z, *p, __init__."""
        before = self.raw[max(0, start - 60) : start].decode(errors="ignore").rstrip("*_~")
        after = self.raw[end : end + 60].decode(errors="ignore").lstrip("*_~")
        inner = self.raw[start + width : end - width].decode()
        if before and _is_tight(before[-1], ")]}"):
            return True
        if after and _is_tight(after[0], "([{"):
            return True
        if not _TWO_LETTERS.search(inner):
            near, far = before.rstrip()[-1:], after.lstrip()[:1]
            between = (near.isdigit() or near == ")") and (far.isdigit() or far == "(")
            if width == 1 or between:
                return True
        return (
            self.raw[start : start + 1] == b"_"
            and width == 2
            and _IDENTIFIER.fullmatch(inner) is not None
        )

    def start_link(self, facts: object, start: int, end: int) -> None:
        self.gap(start)
        address = fact(facts, "dest_url")
        if fact(facts, "link_type") == "Email":
            address = f"mailto:{address}"
        if not _SAFE_ADDRESS.match(address):
            self.kinds.append("literal")
            self.closing.append("0")
            return
        quoted = escape(address).replace("&lt;", "%3C").replace("&gt;", "%3E")
        self.open("link", "a", start, end, f' href="{quoted}"')
        self.fresh = False
        self.at = start + 1

    def start_image(self, _: object, start: int, end: int) -> None:
        # Loading it would tell its server who is reading.
        self.gap(start)
        self.show_to(end)
        self.image_end = end

    def end_literal(self, end: int) -> None:
        self.gap(end - int(self.closing.pop()))
        self.show_to(end)
        self.kinds.pop()

    def end_words(self, end: int) -> None:
        self.closing[-1], width = self.closing[-1].split("\0")
        self.gap(end - int(width))
        self.at = end
        self.close()

    def end_link(self, end: int) -> None:
        tail = self.raw[self.at : end].decode()
        self.close()
        # Where a link leads is part of what was written, and a pointer is not at everybody's hand.
        target = tail.removeprefix("]") if tail.startswith("]") else tail.removesuffix(">")
        if target:
            self.out.append('<span class="target">')
            self.show(target)
            self.out.append("</span>")
        self.at = end

    def inline_code(self, value: str, start: int, end: int) -> None:
        ticks = _TICKS.match(self.raw, start)
        width = ticks.end() - start if ticks else 0
        written = self.raw[start + width : end - width].decode()
        self.out.append("<code>")
        self.show(value if "".join(value.split()) == "".join(written.split()) else written)
        self.out.append("</code>")

    def words(self, value: str, start: int, end: int) -> None:
        while self.next_formula < len(self.formulas):
            formula = self.formulas[self.next_formula]
            if formula.start >= end:
                break
            self.next_formula += 1
            if formula.start >= start and formula.end <= end:
                self.show_to(formula.start)
                self.show_formula(formula)
        written = self.raw[self.at : end].decode()
        if _ENTITY.fullmatch(written) and value.isprintable() and value.strip():
            self.show(value)
            self.at = end
        else:
            self.show_to(end)

    def show_formula(self, formula: Formula) -> None:
        html = typeset(formula)
        if html is None:
            self.out.append('<span class="formula">')
            self.show(self.raw[formula.start : formula.end].decode())
            self.out.append("</span>")
        else:
            self.out.append(html)
            self.shown.append(text_of(html))
        self.at = formula.end


def _is_tight(neighbour: str, brackets: str) -> bool:
    if neighbour in brackets:
        return True
    return neighbour.isalnum() and not _UNSPACED.match(neighbour)
