"""Making people and their programs' keys, from the command line."""

import sys
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, Scope
from app.settings import get_settings
from app.terminal import Json, say, with_session


def create_user(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Who it is; they sign in with it.")],
    role: Annotated[Role, typer.Option(help="What the person may do.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password from standard input.")
    ] = False,
    name: Annotated[str, typer.Option(help="The name to show.")] = "",
    as_json: Json = False,
) -> None:
    """Make a person. Without a password, a link that signs them in once is printed.

    Example: plackett user create ada@example.org --role admin
    """
    from datetime import timedelta

    from app.accounts import service

    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None

    async def work(session: AsyncSession) -> dict[str, object]:
        user = await service.create_user(session, email, role, name=name, password=password)
        made = {"id": user.id, "email": user.email, "role": user.role.value}
        if password is None:
            token = await service.create_sign_in_link(session, user, lifetime=timedelta(days=7))
            made["sign_in_link"] = f"{get_settings().public_address}/sign-in/{token}"
        return made

    made = with_session(work)
    sentence = f"{made['email']} is a new {made['role']}."
    if "sign_in_link" in made:
        sentence += f"\nSign in once, within 7 days: {made['sign_in_link']}"
    say(sentence, made, as_json)


def create_token(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose token it is.")],
    name: Annotated[str, typer.Option(help="What the token is for.")] = "",
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do, given once for each [default: all that its owner may]."),
    ] = None,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="In how many days it ends [default: never].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API token and print it, once.

    Example: plackett token create ada@example.org --name notebook --scope read --expires-days 90
    """
    from datetime import timedelta

    from app.accounts import service
    from app.accounts.queries import get_user_by_email
    from app.errors import NotFound

    async def work(session: AsyncSession) -> str:
        user = await get_user_by_email(session, email)
        if user is None:
            raise NotFound(f"There is nobody with the address {email}", field="EMAIL")
        return await service.create_api_token(
            session,
            user,
            name=name,
            scopes=scope or tuple(Scope),
            lifetime=None if expires_days is None else timedelta(days=expires_days),
        )

    token = with_session(work)
    say(token, {"token": token}, as_json)
