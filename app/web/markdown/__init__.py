"""Markdown from models, raters and files, made into HTML that can do no harm and hides nothing.

Model output is hostile input. It is rendered without raw HTML and then passed through an allow-list; images
are shown as their source, since loading one would tell its server who is reading. Where any character of a
text would not be seen, or rendering it would take long, its source is shown instead.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import nh3
import structlog
from markupsafe import Markup, escape

from app.web.markdown import code, formulas
from app.web.markdown.ledger import CannotShowError, get_direction, is_mixed
from app.web.markdown.render import render_html

log = structlog.get_logger("plackett.markdown")

TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a", "span"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
} | formulas.TAGS
DIRECTED = (
    "p",
    "blockquote",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "table",
    "th",
    "td",
)
ATTRIBUTES = {name: {"dir"} for name in DIRECTED} | formulas.ATTRIBUTES
ATTRIBUTES |= {"a": {"href"}, "ol": {"dir", "start"}, "li": {"dir", "value"}}
# These and nothing else: a model must not dress as the page.
CLASSES = {
    "span": code.CLASSES | {"language", "target", "formula"},
    "p": {"as-written"},
    "li": {"as-written"},
    "ul": {"dash", "plus"},
    "ol": {"paren"},
} | formulas.CLASSES
# Beyond it the source is shown: the parser takes some 10 ms for the worst text of this length.
LONGEST_RENDERED = 100_000  # characters
# Texts up to this many characters in all are quicker to render than to hand to a thread.
SHORT = 4000
MOST_DIRECTED = 5000  # lines of a source whose direction is looked at one by one
MOST_KEPT = 16_000_000  # characters of source and HTML, in each process


@dataclass(frozen=True)
class View:
    """A text in the two ways in which a page can show it."""

    text: str
    # None where only the source can be shown.
    html: Markup | None
    # What a browser reads back, from inside a <pre>, as exactly the text.
    source: Markup

    @property
    def shown(self) -> Markup:
        """The text for reading: sanitised HTML, safe to put into a page."""
        if self.html is None:
            return Markup('<pre class="source">{}</pre>').format(self.source)
        return self.html


Views = Mapping[str, View]


class _Kept:
    """The views that were made last, by their text."""

    def __init__(self) -> None:
        self.views: OrderedDict[str, View] = OrderedDict()
        self.size = 0
        self.lock = threading.Lock()

    def get(self, text: str) -> View | None:
        with self.lock:
            view = self.views.get(text)
            if view is not None:
                self.views.move_to_end(text)
            return view

    def put(self, view: View) -> None:
        with self.lock:
            if view.text in self.views:
                return
            self.views[view.text] = view
            self.size += _size(view)
            while self.size > MOST_KEPT and len(self.views) > 1:
                self.size -= _size(self.views.popitem(last=False)[1])


def _size(view: View) -> int:
    return len(view.text) + len(view.source) + len(view.html or "")


_kept = _Kept()


def view_text(text: str) -> View:
    """The text's two views. It takes a while for a long text: see view_texts."""
    view = _kept.get(text)
    if view is None:
        view = View(text, _render(text), _source(text))
        _kept.put(view)
    return view


async def view_texts(texts: Iterable[str]) -> dict[str, View]:
    """The views of all texts that a page shows, made off the event loop where they are not short."""
    wanted = dict.fromkeys(texts)
    views = {text: view for text in wanted if (view := _kept.get(text)) is not None}
    missing = [text for text in wanted if text not in views]
    if sum(len(text) for text in missing) <= SHORT:
        made = [view_text(text) for text in missing]
    else:
        made = await asyncio.to_thread(lambda: [view_text(text) for text in missing])
    return views | {view.text: view for view in made}


def _source(text: str) -> Markup:
    # A browser drops a line's end right after <pre>, and reads a bare CR as a line's end.
    escaped = escape(text).replace("\r", Markup("&#13;"))
    if is_mixed(text) and text.count("\n") <= MOST_DIRECTED:
        # Each line runs its own way, as a paragraph does.
        lines = zip(text.split("\n"), escaped.split("\n"), strict=True)
        spans = [
            Markup('<span class="line" dir="{}">{}\n</span>').format(
                get_direction(line[:1000]), each
            )
            for line, each in lines
        ]
        escaped = Markup("").join(spans).removesuffix("\n</span>") + Markup("</span>")
    return Markup("\n") + escaped


def _render(text: str) -> Markup | None:
    if len(text) > LONGEST_RENDERED:
        return None
    try:
        html, shown = render_html(text)
    except CannotShowError:
        return None
    except BaseException as error:
        # A fault of the renderer's, or a panic of the parser's (whose class has no name to import).
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        log.exception("a text could not be rendered", characters=len(text))
        return None
    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        allowed_classes=CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    # Whatever the parser, the renderer and the allow-list do: what is not seen, is not hidden either.
    if "".join(formulas.text_of(clean).split()) != "".join(shown.split()):
        return None
    # The allow-list above is what makes this safe.
    return Markup(clean)  # noqa: S704
