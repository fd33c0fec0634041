"""What the pages of one project share: the project, and which of its pages is open."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.projects.models import Project
from app.web.templates import PageContext

# The last part of a page's address, and what its head calls it. The navigation is in web/side_nav.html.
TABS = {
    "overview": "Overview",
    "prompts": "Prompts",
    "generation": "Generation",
    "guidelines": "Guidelines",
    "raters": "Quality",
    "notes": "Notes",
    "imports": "Imports",
    "leaderboard": "Leaderboard",
    "members": "Members",
    "settings": "Settings",
}


@dataclass(frozen=True, kw_only=True)
class ProjectPage(PageContext):
    """A page of one project."""

    project: Project
    tab: str
    tabs: Mapping[str, str] = field(default_factory=lambda: TABS)
