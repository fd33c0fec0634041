"""Letting a model rank and rewrite by written principles, from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from app.db.engine import SessionMaker
from app.settings import get_settings
from app.terminal import Json, Slug, say, with_sessions

Judging = Annotated[str, typer.Option("--policy", help="The policy of the registry that judges.")]
PrinciplesFile = Annotated[
    Path, typer.Option("--principles", help="A TOML file; docs/principles.toml is one.")
]
MostTasks = Annotated[int | None, typer.Option(min=1, help="At most so many tasks.")]
FeedbackSeed = Annotated[int, typer.Option(min=0, help="Draws principles, and samples.")]


def rank_by_principles(
    slug: Slug,
    policy: Judging,
    principles: PrinciplesFile,
    limit: MostTasks = None,
    seed: FeedbackSeed = 0,
    as_json: Json = False,
) -> None:
    """Let a model rank every task, as a rater of kind `ai`; what it has ranked already stays.

    People's tasks and figures are untouched; `plackett export --kind ai` writes its comparisons.

    Example: plackett feedback rank answers --policy mistral --principles docs/principles.toml
    """
    _give_feedback(slug, policy, principles, limit=limit, seed=seed, as_json=as_json)


def revise_by_principles(
    slug: Slug,
    policy: Judging,
    principles: PrinciplesFile,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Critiques and revisions.")] = 1,
    limit: MostTasks = None,
    seed: FeedbackSeed = 0,
    as_json: Json = False,
) -> None:
    """The same, and let it criticise and rewrite the response that it ranks first.

    The rewrites are demonstrations in `plackett export --kind ai`, for supervised fine-tuning.

    Example: plackett feedback revise answers --policy mistral --principles docs/principles.toml
    """
    _give_feedback(slug, policy, principles, limit=limit, seed=seed, as_json=as_json, rounds=rounds)


def _give_feedback(
    slug: str,
    policy: str,
    file: Path,
    *,
    limit: int | None,
    seed: int,
    as_json: bool,
    rounds: int | None = None,
) -> None:
    from app.feedback.principles import read_principles
    from app.feedback.runner import give_feedback
    from app.feedback.service import Report
    from app.projects.service import get_project

    principles = read_principles(file)
    settings = get_settings()

    def show(done: int, total: int) -> None:
        typer.echo(f"{done} of {total} tasks", err=True)

    async def work(sessions: SessionMaker) -> Report:
        async with sessions() as session:
            project = await get_project(session, slug)
        return await give_feedback(
            sessions,
            settings,
            project,
            policy,
            principles,
            seed=seed,
            limit=limit,
            revise=rounds is not None,
            rounds=rounds or 1,
            progress=show,
        )

    report = with_sessions(work)
    lines = [f"{report.rater}: {report.ranked} ranked ({report.ties} all tied)"]
    if rounds is not None:
        lines.append(f"  {report.revised} revised")
    lines += [f"  {count} not: {reason}" for reason, count in report.failures.items()]
    say("\n".join(lines), report.as_dict(), as_json)
