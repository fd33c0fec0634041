"""What the pages of one project share: its head, and the tab that is open."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app.projects.models import Project
from app.web.templates import PageContext

# The last part of a tab's address, and what it is called.
TABS = {
    "overview": "Overview",
    "prompts": "Prompts",
    "generation": "Generation",
    "guidelines": "Guidelines",
    "raters": "Raters",
    "members": "Members",
    "settings": "Settings",
}
# Pages that are there to change something: a researcher reads the others.
FOR_ADMINS = frozenset({"members", "settings"})


@dataclass(frozen=True, kw_only=True)
class ProjectPage(PageContext):
    """A page of one project, under its tab."""

    project: Project
    tab: str
    tabs: Mapping[str, str] = field(default_factory=lambda: TABS)
    for_admins: Collection[str] = FOR_ADMINS
