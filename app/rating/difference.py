"""In which words two texts differ, as HTML."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from difflib import Match, SequenceMatcher

from markupsafe import Markup, escape

# Words, runs of spaces, and every other character by itself.
PIECES = re.compile(r"\w+|\s+|[^\w\s]")
# Pairs of equal pieces looked at before the search for what two texts share is given up: about a second.
# It grows with the cube of the length where a few pieces repeat, as in "a b a b".
MOST_WORK = 8_000_000


class TooDifferentError(Exception):
    """The search would take too long."""


class _Search(SequenceMatcher[str]):
    """difflib's, which stops when it has looked at too much."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__(None, before, after, autojunk=False)
        self.before, self.after = before, after
        self.work = 0

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> Match:
        """The longest stretch that both share. Raises TooDifferentError."""
        end = len(self.after) if bhi is None else bhi
        places = self.b2j  # type: ignore[attr-defined] # where each piece stands in the other text
        for piece in self.before[alo:ahi]:
            self.work += 1 + bisect_left(places.get(piece, ()), end)
        if self.work > MOST_WORK:
            raise TooDifferentError
        return super().find_longest_match(alo, ahi, blo, bhi)


def mark_differences(one: str, other: str) -> Markup:
    """The other text, with what it adds in <ins> and what it leaves out of the one in <del>.

    Word by word where that is found soon, else by lines, else as a whole.
    """
    parts = [Markup('<div class="difference" dir="auto">')]
    for gone, new in _find_changes(one, other):
        if gone == new:
            parts.append(escape(new))
            continue
        if gone:
            parts.append(Markup("<del>{}</del>").format(gone))
        if new:
            parts.append(Markup("<ins>{}</ins>").format(new))
    parts.append(Markup("</div>"))
    return Markup("").join(parts)


def _find_changes(one: str, other: str) -> list[tuple[str, str]]:
    for cut in (PIECES.findall, lambda text: text.splitlines(keepends=True)):
        before, after = cut(one), cut(other)
        try:
            found = _Search(before, after).get_opcodes()
        except TooDifferentError:
            continue
        return [("".join(before[a:b]), "".join(after[c:d])) for _what, a, b, c, d in found]
    return [(one, other)]
