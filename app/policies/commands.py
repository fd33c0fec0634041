"""Making a project, with the policies that write for it, from the command line."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.terminal import Json, Slug, say, validated, with_session


def create_project(
    slug: Slug,
    name: Annotated[str, typer.Option(help="The project's name.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with the project's other settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a project.

    Example: plackett project create stories --name "Little stories" --config stories.toml
    """
    from app.policies import service as policies
    from app.projects import service
    from app.projects.config import read_config
    from app.projects.schemas import ProjectIn

    values = read_config(config) if config else {}
    wanted = validated(ProjectIn, values | {"slug": slug, "name": name})

    async def work(session: AsyncSession) -> None:
        project = await service.create_project(session, wanted)
        await policies.set_policies_by_name(session, project, wanted.policies)

    with_session(work)
    say(f"The project {slug} is there.", {"slug": slug, "name": name}, as_json)
