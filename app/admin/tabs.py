"""What the pages of one project share: its head, and the tab that is open."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.projects.models import Project
from app.web.templates import PageContext

# The last part of a tab's address, and what it is called.
TABS = {
    "overview": "Overview",
    "prompts": "Prompts",
    "generation": "Generation",
    "raters": "Raters",
    "settings": "Settings",
}


@dataclass(frozen=True, kw_only=True)
class ProjectPage(PageContext):
    """A page of one project, under its tab."""

    project: Project
    tab: str
    tabs: Mapping[str, str] = field(default_factory=lambda: TABS)
