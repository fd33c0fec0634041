"""Code with its parts marked, where that is sure to be quick."""

from functools import lru_cache
from html import escape

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES

# What the highlighter calls the parts of code.
CLASSES = {name for name in STANDARD_TYPES.values() if name}
# Several lexers take time that grows with the square of a hostile text's length (Java: 1 s at 8,000
# characters), and hold the interpreter meanwhile: longer blocks are plain, and what comes after many.
LONGEST_COLOURED = 2500  # characters
MOST_COLOURED = 7500  # in one text
LANGUAGES = frozenset(
    (
        *(
            "bash",
            "c",
            "c++",
            "cpp",
            "csharp",
            "css",
            "go",
            "haskell",
            "html",
            "java",
            "javascript",
            "js",
        ),
        *(
            "json",
            "jsx",
            "julia",
            "kotlin",
            "lua",
            "perl",
            "php",
            "python",
            "py",
            "r",
            "ruby",
            "rust",
        ),
        *("scala", "sh", "shell", "sql", "swift", "toml", "ts", "typescript", "xml", "yaml"),
    )
)


@lru_cache
def _lexer(language: str) -> object:
    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


def colour(code: str, language: str, room: int) -> str:
    """The code as HTML, its parts marked where its language is known and it fits into the room left."""
    if language.lower() not in LANGUAGES or len(code) > min(room, LONGEST_COLOURED):
        return escape(code, quote=False)
    return str(highlight(code, _lexer(language.lower()), HtmlFormatter(nowrap=True)))
