"""In which words two texts differ, as HTML."""

import re
from difflib import SequenceMatcher

from markupsafe import Markup, escape

# Words, runs of spaces, and every other character by itself.
PIECES = re.compile(r"\w+|\s+|[^\w\s]")
# Beyond this many pieces the search for what they share takes too long; paragraphs are compared then.
MOST_PIECES = 6000


def mark_differences(one: str, other: str) -> Markup:
    """The other text, with what it adds in <ins> and what it leaves out of the one in <del>."""
    before, after = PIECES.findall(one), PIECES.findall(other)
    if max(len(before), len(after)) > MOST_PIECES:
        before, after = one.splitlines(keepends=True), other.splitlines(keepends=True)
    parts = [Markup('<div class="difference" dir="auto">')]
    for what, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, new = "".join(before[a:b]), "".join(after[c:d])
        if what == "equal":
            parts.append(escape(new))
            continue
        if gone:
            parts.append(Markup("<del>{}</del>").format(gone))
        if new:
            parts.append(Markup("<ins>{}</ins>").format(new))
    parts.append(Markup("</div>"))
    return Markup("").join(parts)
