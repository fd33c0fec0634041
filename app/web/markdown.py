"""Markdown from models, raters and files, made into HTML that can do no harm.

Model output is hostile input. It is rendered without raw HTML and then passed through an allow-list;
images are left out altogether, since loading one would tell its server who is reading.
"""

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}


@lru_cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "linkify": False})
    return parser.enable(["table", "strikethrough"]).disable(["image"])


def render_markdown(text: str) -> Markup:
    """The text as sanitised HTML, safe to put into a page."""
    html = _parser().render(text)
    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    # The allow-list above is what makes this safe.
    return Markup(clean)  # noqa: S704
