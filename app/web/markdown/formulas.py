"""Formulas in a text: where they are, and their MathML where nothing of them is lost by it.

MathML needs no script, no font of ours and no inline style. Whatever the converter does not know, or would
hide or move about, stays exactly as it was written.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from html import unescape

from math_core import LatexError, LatexToMathML

# A longer one is a text with a stray delimiter, and deeper ones shrink until nobody can read them.
LONGEST_FORMULA = 2000  # bytes
DEEPEST_FORMULA = 12
# Delimiters looked at in one text; those after them are left as they are written.
MOST_DELIMITERS = 4000

TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot"),
    *(
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mtable",
        "mtr",
        "mtd",
        "menclose",
    ),
}
ATTRIBUTES = {
    "math": {"display"},
    "mo": {"stretchy", "lspace", "rspace", "form", "fence", "separator", "largeop", "movablelimits"}
    | {"symmetric", "minsize", "maxsize"},
    "mi": {"mathvariant"},
    "mspace": {"width"},
    "mfrac": {"linethickness"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
    "mtable": {"displaystyle", "scriptlevel"},
    "mrow": {"displaystyle", "scriptlevel"},
    "menclose": {"notation"},
}
CLASSES = {"mtd": {"to-right", "to-left"}}

_DELIMITER = re.compile(rb"\\\\|\\[\[\]()$]|\$\$?|\n[ \t]*\r?\n")
_CLOSERS = {rb"\[": rb"\]", rb"\(": rb"\)", b"$$": b"$$", b"$": b"$"}
# In a quotation each line begins with a mark that is not the formula's.
_QUOTED_LINE = re.compile(rb"\n[ \t]*>")
# Between single dollars, what prose about prices does not have.
_MATHEMATICAL = re.compile(
    r"[\\^_={}<>+*/|]|^-?[A-Za-z]$|^-?[\d.,]+$|^[A-Za-z]\(|[^\W\d_]-[^\W\d_]"
)
_PLAIN_WORDS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}\s+[A-Za-z]{2,}")

# Commands that hide, move or define: what they do to a formula cannot be seen in it.
_REFUSED = re.compile(
    r"(?<!\\)(?:\\\\)*(?:%|\\(?:[hv]?phantom|color|textcolor|colorbox|hspace|hskip|kern|mkern|mskip|raisebox"
    r"|smash|llap|rlap|clap|math[lr]lap|mathclap|newcommand|renewcommand|providecommand|def|gdef|edef|xdef|let"
    r"|tiny|scriptsize|scriptscriptstyle|label|tag|notag|nonumber|cancel|bcancel|xcancel|sout)(?![A-Za-z]))"
)
# The converter would number these; nobody wrote the numbers.
_NUMBERED = re.compile(
    r"\\(begin|end)\{(align|alignat|equation|gather|multline|flalign|eqnarray)\}"
)
_TAG = re.compile(r"</?([a-z]+)([^<>]*)>")
_STYLE = re.compile(r' style="([^"]*)"')
_HARMLESS_STYLE = re.compile(r"^(?:(?:width|padding-\w+|justify-items|text-align):[^;]*;?)*$")
# What stands in a formula without being printed: names of commands and environments, sizes of gaps.
_UNPRINTED = re.compile(
    r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}(?:\s*\[\w\])?(?:\{[clr|@{}\s]*\})?|\\\\\*?(?:\[[^\]]*\])?"
    r"|\\(?:left|right)\s*\.|\\(?:[a-zA-Z]+\*?|[,;:!> ])"
)
_SAME = str.maketrans({"−": "-", "∗": "*", "′": "'", "’": "'", "∣": "|", "∶": ":", "⁄": "/"})
_SYNTAX = frozenset("{}^_&~\\$")


@dataclass(frozen=True)
class Formula:
    """One formula with its delimiters, by the bytes of the text that it is in."""

    start: int
    end: int
    latex: str
    display: bool


def find_formulas(raw: bytes, code: Iterable[tuple[int, int]]) -> list[Formula]:
    """The formulas outside code, in order. One pass, whatever the text is."""
    found: list[Formula] = []
    opened: tuple[bytes, int, int] | None = None  # delimiter, where it starts, where it ends
    ranges = iter(code)
    inside = next(ranges, None)
    for number, match in enumerate(_DELIMITER.finditer(raw)):
        if number >= MOST_DELIMITERS:
            break
        while inside is not None and inside[1] <= match.start():
            inside = next(ranges, None)
        if inside is not None and inside[0] <= match.start():
            opened = None
            continue
        mark = match[0]
        if mark.startswith(b"\n"):
            opened = None
        elif opened is not None and mark == _CLOSERS[opened[0]] and _closes(raw, opened, match):
            latex = raw[opened[2] : match.start()].decode()
            if mark != b"$" or _looks_mathematical(latex):
                found.append(Formula(opened[1], match.end(), latex, opened[0] in (rb"\[", b"$$")))
                opened = None
            else:
                opened = (mark, match.start(), match.end()) if _opens(raw, match) else None
        elif mark in _CLOSERS and (opened is None or opened[0] == b"$") and _opens(raw, match):
            opened = (mark, match.start(), match.end())
    return found


def _opens(raw: bytes, match: re.Match[bytes]) -> bool:
    if match[0] != b"$":
        return True
    before, after = raw[match.start() - 1 : match.start()], raw[match.end() : match.end() + 1]
    return not (before.isalnum() or before == b"\\") and after != b"" and not after.isspace()


def _closes(raw: bytes, opened: tuple[bytes, int, int], match: re.Match[bytes]) -> bool:
    inner = raw[opened[2] : match.start()]
    if not inner.strip() or len(inner) > LONGEST_FORMULA or _QUOTED_LINE.search(inner):
        return False
    if match[0] != b"$":
        return True
    after = raw[match.end() : match.end() + 1]
    return not inner[-1:].isspace() and not after.isalnum()


def _looks_mathematical(latex: str) -> bool:
    if "\\" in latex:
        return True
    return _MATHEMATICAL.search(latex) is not None and _PLAIN_WORDS.search(latex) is None


@lru_cache
def _converter() -> LatexToMathML:
    return LatexToMathML(fancy_error=False)


def typeset(formula: Formula) -> str | None:
    """The formula as MathML; None where it is better shown as it was written."""
    latex = formula.latex
    if _REFUSED.search(latex) or _depth(latex) > DEEPEST_FORMULA:
        return None
    try:
        html = _converter().convert_with_local_state(
            _NUMBERED.sub(r"\\\1{\2*}", latex), displaystyle=formula.display
        )
    except LatexError:
        return None
    for tag, _attributes in _TAG.findall(html):
        if tag not in TAGS:
            return None
    for style in _STYLE.findall(html):
        if not _HARMLESS_STYLE.match(style):
            return None
    html = _STYLE.sub(lambda style: _as_class(style[1]), html)
    return html if _keeps(latex, text_of(html)) else None


def text_of(html: str) -> str:
    """What a reader sees of it."""
    return unescape(_TAG.sub("", html))


def _as_class(style: str) -> str:
    # A page allows no inline styles; a class does for the two that matter.
    for side in ("right", "left"):
        if f"text-align: {side}" in style:
            return f' class="to-{side}"'
    return ""


def _depth(latex: str) -> int:
    depth = deepest = 0
    for character in latex:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    # Each script of a script counts, braces or none.
    return max(deepest, latex.count("^^"))


def _keeps(latex: str, shown: str) -> bool:
    """Whether every character that the formula prints is among those shown."""
    written = _count(_UNPRINTED.sub(" ", latex))
    return not written - _count(shown)


def _count(text: str) -> Counter[str]:
    folded = unicodedata.normalize("NFKC", text).translate(_SAME)
    return Counter(
        each for each in folded if not each.isspace() and each not in _SYNTAX and each.isprintable()
    )
