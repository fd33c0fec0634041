"""Every room's tables in one metadata, for migrations and tests."""

import app.accounts.models
import app.datasets.models
import app.generation.models
import app.policies.models
import app.projects.models
import app.prompts.models
import app.rating.models
import app.training.models  # noqa: F401
from app.db.base import Base

metadata = Base.metadata
