"""Markdown from models, raters and files, made into HTML that can do no harm.

Model output is hostile input. It is rendered without raw HTML and then passed through an allow-list;
images are left out altogether, since loading one would tell its server who is reading.
"""

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a", "span"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}
# What the highlighter calls the parts of code, and nothing else: a model must not dress as the page.
CLASSES = {"span": {name for name in STANDARD_TYPES.values() if name}}
# Longer blocks are shown plain: colouring them would take longer than reading their first screen.
LONGEST_COLOURED = 20_000


def _colour(code: str, language: str, _attributes: str) -> str:
    """A block of code with its parts marked, where the language is known."""
    if not language or len(code) > LONGEST_COLOURED:
        return str(escape(code))
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return str(escape(code))
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


@lru_cache
def _parser() -> MarkdownIt:
    options = {"html": False, "breaks": True, "linkify": False, "highlight": _colour}
    parser = MarkdownIt("commonmark", options)
    return parser.enable(["table", "strikethrough"]).disable(["image"])


def render_markdown(text: str) -> Markup:
    """The text as sanitised HTML, safe to put into a page."""
    html = _parser().render(text)
    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        allowed_classes=CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    # The allow-list above is what makes this safe.
    return Markup(clean)  # noqa: S704
