"""Registering a policy, and telling the worker of it, from the command line."""

import uuid
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import get_settings
from app.terminal import Json, say, validated, with_session


def add_policy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it here.")],
    backend: Annotated[str, typer.Option(help="transformers (local) or openai (a server).")],
    model: Annotated[str, typer.Option(help="A path or id, or the model's name at the server.")],
    base_url: Annotated[
        str | None, typer.Option(help="The server's address, up to and with /v1.")
    ] = None,
    api_key_variable: Annotated[
        str | None,
        typer.Option(help="The worker's variable with the server's key: PLACKETT_KEY_… ."),
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="A project whose candidates it shall write.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a model.

    Example: plackett policy add mistral --backend openai --model mistral-7b --base-url http://gpu:8000/v1
    """
    from app.generation.service import enqueue_waiting
    from app.policies import service
    from app.policies.queries import list_project_policies
    from app.policies.reach import check_base_url
    from app.policies.schemas import PolicyIn
    from app.projects.service import get_project

    if backend not in ("transformers", "openai"):
        raise typer.BadParameter("is transformers or openai", param_hint="--backend")
    local = Path(model).expanduser()
    if backend == "transformers" and local.exists():
        model = str(local.resolve())  # the worker may run in another directory
    wanted = validated(
        PolicyIn,
        {
            "name": name,
            "backend": backend,
            "model": model,
            "base_url": base_url,
            "api_key_variable": api_key_variable,
        },
    )

    async def work(session: AsyncSession) -> uuid.UUID:
        await check_base_url(wanted.base_url, get_settings().policy_private_hosts)
        policy = await service.register_policy(session, wanted)
        for slug in project or ():
            served = await get_project(session, slug)
            serving = await list_project_policies(session, served.id)
            await service.set_project_policies(session, served, [*serving, policy])
            await enqueue_waiting(session, served.id)
        return policy.id

    policy_id = with_session(work)
    say(f"The policy {name} is registered.", {"id": policy_id, "name": name}, as_json)
