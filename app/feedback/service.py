"""AI feedback: a policy of the registry ranks candidates, and rewrites the best, by written principles.

It enters by the doors that people's judgements do, as a rater of kind `ai`: a ranking with comparisons and
a rationale, a rewrite that exports as a demonstration. It takes none of a task's slots, so
that as many people are asked as without it.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.feedback import queries
from app.feedback.asking import (
    critique_messages,
    pair_questions,
    ranks_of,
    revision_messages,
    scores_of,
)
from app.feedback.principles import Principle
from app.feedback.queries import Work
from app.generation.backends.base import Backend, GenerationError, Request, Response
from app.projects.models import Project
from app.projects.schemas import Sampling
from app.rating.rankings import Content, NewRanking, record_ranking

LONGEST_RATIONALE = 4000


@dataclass
class Report:
    """What a run came to. `failures` are reasons, each with how often it came."""

    rater: str
    ranked: int = 0
    revised: int = 0
    ties: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For a program."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """A task's ranking by a principle, and perhaps a revision of its best candidate."""

    work: Work
    ranks: list[int]
    rationale: str
    rewrite: str | None = None
    critique: str = ""


@dataclass(frozen=True)
class Judge:
    """A back end with its principles. All that is drawn comes from the seed and the task."""

    backend: Backend
    sampling: Sampling
    rank_by: Sequence[Principle]
    revise_by: Sequence[Principle]
    rounds: int
    seed: int

    async def judge(self, work: Work) -> Judgement | GenerationError:
        """Rank a task's candidates, and revise the best of them where that is wanted."""
        source = random.Random(f"{self.seed} {work.task_id}")  # noqa: S311 - no secret
        principle = source.choice(self.rank_by)
        if work.ranks is not None:
            ranked = Judgement(work, [work.ranks[str(each)] for each, _ in work.candidates], "")
        else:
            judgement = await self._rank(work, principle)
            if isinstance(judgement, GenerationError):
                return judgement
            ranked = judgement
        return await self._revise(ranked, source) if self.revise_by else ranked

    async def _rank(self, work: Work, principle: Principle) -> Judgement | GenerationError:
        texts = [text for _, text in work.candidates]
        questions = pair_questions(work.messages, texts, principle)
        choices = await self.backend.choose(list(questions.values()))
        chances = {}
        for order, choice in zip(questions, choices, strict=True):
            if isinstance(choice, GenerationError):
                return choice
            chances[order] = choice[0]
        scores = scores_of(chances, len(texts))
        others = max(len(texts) - 1, 1)
        shares = ", ".join(f"{score / others:.2f}" for score in scores)
        rationale = f"Principle: {principle.name}. Chances against the others: {shares}."
        return Judgement(work, ranks_of(scores), rationale)

    async def _revise(
        self, ranked: Judgement, source: random.Random
    ) -> Judgement | GenerationError:
        work = ranked.work
        best = ranked.ranks.index(min(ranked.ranks))
        text = work.candidates[best][1]
        critiques = []
        for _ in range(self.rounds):
            principle = source.choice(self.revise_by)
            critique = await self._say(critique_messages(work.messages, text, principle), source)
            if isinstance(critique, GenerationError):
                return critique
            wanted = revision_messages(work.messages, text, critique, principle)
            revision = await self._say(wanted, source)
            if isinstance(revision, GenerationError):
                return revision
            critiques.append(f"Critique ({principle.name}): {critique}")
            text = revision
        return Judgement(work, ranked.ranks, ranked.rationale, text, "\n\n".join(critiques))

    async def _say(
        self, messages: Sequence[dict[str, str]], source: random.Random
    ) -> str | GenerationError:
        request = Request(
            messages=messages,
            seed=source.getrandbits(62),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_new_tokens=self.sampling.max_new_tokens,
        )
        (outcome,) = await self.backend.generate([request])
        if not isinstance(outcome, Response):
            return outcome
        return outcome.text.strip() or GenerationError("the model answered nothing")


async def store(
    session: AsyncSession, project: Project, rater: User, judgement: Judgement, report: Report
) -> None:
    """Store a judgement, unless another run has been quicker."""
    work = judgement.work
    if work.ranks is None:
        ids = [candidate for candidate, _ in work.candidates]
        stored = await record_ranking(
            session,
            NewRanking(
                project_id=project.id,
                task_id=work.task_id,
                rater_id=rater.id,
                # It was asked about pairs, each both ways round, and told no names: no order was shown.
                blind=True,
                timed=True,
                content=Content(
                    ranks=dict(zip(ids, judgement.ranks, strict=True)),
                    rationale=judgement.rationale[:LONGEST_RATIONALE],
                ),
                guideline_version=project.guideline_version,
            ),
        )
        if stored is not None:
            report.ranked += 1
            report.ties += len(set(judgement.ranks)) == 1
    if judgement.rewrite is not None:
        await queries.set_rewrite(
            session,
            [work.task_id],
            rater.id,
            judgement.rewrite,
            judgement.critique[:LONGEST_RATIONALE],
        )
        report.revised += 1
