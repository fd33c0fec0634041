"""Templates: one environment, and pages whose context is a typed class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates
from jinja2 import StrictUndefined
from markupsafe import Markup, escape

from app.errors import PlackettError
from app.settings import CHECKOUT, Settings
from app.web.addresses import OwnAddresses, at, get_prefix
from app.web.assets import asset_url, bundle_url, vendor_url
from app.web.csrf import csrf_token, set_csrf_cookie
from app.web.fields import is_wrong, tell, tell_of
from app.web.frame import get_frame
from app.web.language import get_language, gettext, list_languages, ngettext
from app.web.people import get_person, is_admin

# A sentence that the page before left for this one ("The import has started.").
NOTICE_COOKIE = "plackett_notice"


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """What every page's template gets; a page's own class adds its fields."""

    title: str
    # What was wrong with the form that was sent: its field is marked.
    error: PlackettError | None = None


def moment(value: datetime | None) -> Markup:
    """A moment, in UTC for machines; the page's script shows it in the reader's own time."""
    if value is None:
        return Markup("–")
    value = value.astimezone(UTC)
    return Markup('<time datetime="{}" data-local>{}</time>').format(
        value.isoformat(timespec="seconds"), value.strftime("%Y-%m-%d %H:%M UTC")
    )


def number(value: float | int | None, digits: int = 3) -> str:
    """A figure for people: thousands parted, as many decimals as asked for."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.{digits}f}"


# How a state looks, whatever it is a state of: it ended well, it ended badly, it is under way.
BADGES = {
    **dict.fromkeys(("ready", "succeeded", "passed"), "badge good"),
    **dict.fromkeys(("failed",), "badge bad"),
    **dict.fromkeys(("generating", "running"), "badge warn"),
}


def badge(state: str) -> str:
    """The CSS classes of a state's badge."""
    return BADGES.get(state, "badge")


def attributes(given: Mapping[str, object]) -> Markup:
    """HTML attributes: true is one without a value, and false and none are left out. `hx_get` is hx-get."""
    parts = []
    for name, value in given.items():
        if value is True:
            parts.append(escape(name.replace("_", "-")))
        elif value is not None and value is not False:
            parts.append(Markup('{}="{}"').format(name.replace("_", "-"), value))
    return Markup(" ").join(parts)


def get_notice(request: Request) -> str | None:
    """The sentence that the page before left, shown once."""
    text = request.cookies.get(NOTICE_COOKIE)
    return unquote(text)[:500] if text else None


def _under_prefix(address_of: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: at(address_of(name))


def create_templates(folder: Path = CHECKOUT / "templates") -> Jinja2Templates:
    """The environment. An undefined name is an error, not an empty string."""
    templates = Jinja2Templates(directory=folder)
    environment = templates.env
    environment.undefined = StrictUndefined
    environment.trim_blocks = True
    environment.lstrip_blocks = True
    # The application's own addresses do not know under which prefix it stands; the browser's do.
    for address in (asset_url, bundle_url, vendor_url):
        environment.globals[address.__name__] = _under_prefix(address)
    environment.globals.update(get_prefix=get_prefix)
    environment.add_extension(OwnAddresses)
    environment.globals.update(csrf_token=csrf_token)
    environment.globals.update(
        get_person=get_person, is_admin=is_admin, get_frame=get_frame, get_notice=get_notice
    )
    environment.globals.update(get_language=get_language, list_languages=list_languages)
    environment.add_extension("jinja2.ext.i18n")
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        gettext, ngettext, newstyle=True
    )
    environment.filters.update(moment=moment, number=number)
    environment.filters.update(badge=badge, attributes=attributes)
    environment.filters.update(told=tell)
    environment.globals.update(is_wrong=is_wrong, tell_of=tell_of)
    # For texts that come from a variable: `_` would take a percent sign in them for a place to fill.
    environment.filters.update(translated=gettext)
    return templates


@lru_cache
def _templates() -> Jinja2Templates:
    return create_templates()


def render(
    request: Request,
    name: str,
    context: PageContext,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """A page or a fragment, from its template and its typed context."""
    values: dict[str, object] = {
        field.name: getattr(context, field.name) for field in fields(context)
    }
    response = _templates().TemplateResponse(
        request, name, values, status_code=status, headers=headers
    )
    settings: Settings = request.app.state.settings
    set_csrf_cookie(request, response, secure=settings.secure_cookies)
    if NOTICE_COOKIE in request.cookies:
        response.delete_cookie(NOTICE_COOKIE)
    return response
