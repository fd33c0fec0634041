"""A model ranks and rewrites by written principles, as a rater of its own kind, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Kind, Role, User
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.errors import InvalidInput, NotFound
from app.feedback.asking import pair_questions, ranks_of, scores_of
from app.feedback.principles import Principle, read_principles
from app.feedback.runner import TooManyFailures, give_feedback
from app.feedback.service import Report
from app.policies.models import Backend
from app.projects.models import Project
from app.prompts.models import Candidate
from app.quality.service import get_leaderboard, get_quality
from app.rating.assign import lease_next_task
from app.rating.models import Comparison, Ranking, Task
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.settings import CHECKOUT, Settings
from tests.factories.accounts import create_user
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import create_tasks
from tests.generation.openai_server import ChatServer, running_server

PRINCIPLES = """
[[principle]]
name = "good"
question = "Which is better?"
critique = "Write a critique of it."
revision = "Write it anew."
"""
TEXTS = ["good good good", "bad", "good", "good good"]


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with running_server() as server:
        yield server


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=6)
    yield create_sessions(engine)
    await engine.dispose()


@pytest.fixture
def settings(fresh_database: str, tmp_path: Path) -> Settings:
    return Settings(database_url=fresh_database, data_dir=tmp_path, generation_timeout=5)


@pytest.fixture
def principles(tmp_path: Path) -> Path:
    file = tmp_path / "principles.toml"
    file.write_text(PRINCIPLES)
    return file


async def make(sessions: SessionMaker, chat: ChatServer, model: str, tasks: int = 3) -> Project:
    """A project with tasks, and a policy `critic` behind the server."""
    async with sessions() as session:
        project = await create_project(session)
        await create_policy(session, name="critic", model=model, base_url=chat.address)
        rows: Any = {"candidates": TEXTS}
        await create_tasks(session, project, tasks, **rows)
        await session.commit()
        return project


async def judge(
    sessions: SessionMaker, settings: Settings, project: Project, principles: Path, **more: Any
) -> Report:
    return await give_feedback(
        sessions, settings, project, "critic", read_principles(principles), **more
    )


async def ranks_in_order(session: AsyncSession, ranking: Ranking) -> list[int]:
    """A ranking's ranks in the order of its task's candidates."""
    ids = await session.scalars(
        select(Candidate.id)
        .join(Task, Task.prompt_id == Candidate.prompt_id)
        .where(Task.id == ranking.task_id)
        .order_by(Candidate.position)
    )
    return [ranking.ranks[str(each)] for each in ids]


@pytest.mark.parametrize("model", ["judge", "judge-word"])
async def test_rankings_follow_what_the_model_likes_whether_it_tells_chances_or_a_word(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path, model: str
) -> None:
    project = await make(sessions, chat, model)
    before = len(chat.requests)
    report = await judge(sessions, settings, project, principles)
    assert (report.ranked, report.failed, report.ties) == (3, 0, 0)
    assert len(chat.requests) - before == 3 * 12  # six pairs, both ways round
    async with sessions() as session:
        for ranking in await session.scalars(select(Ranking)):
            assert await ranks_in_order(session, ranking) == [1, 4, 3, 2]
            # It was asked about pairs, both ways round: no order was shown.
            assert (ranking.presented, ranking.blind, ranking.timed) == (None, True, True)
            assert "Principle: good" in (ranking.rationale or "")
            assert ranking.assignment_id is None
        assert await session.scalar(select(func.count()).select_from(Comparison)) == 3 * 6
        (rater,) = await session.scalars(select(User).where(User.kind == Kind.AI))
        assert rater.role is Role.RATER
        assert rater.password_hash is None


async def test_who_always_likes_the_first_has_said_nothing(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path
) -> None:
    project = await make(sessions, chat, "judge-first", tasks=1)
    report = await judge(sessions, settings, project, principles)
    assert report.ties == 1
    async with sessions() as session:
        (ranking,) = await session.scalars(select(Ranking))
        assert set(ranking.ranks.values()) == {1}


async def test_people_lose_no_slot_and_their_figures_stay_theirs(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path
) -> None:
    from app.rating.queries import count_rankings, count_tasks

    project = await make(sessions, chat, "judge")
    async with sessions() as session:
        slots = list(await session.scalars(select(Task.open_slots)))
        person = await create_user(session)
        lease = await lease_next_task(session, project, person)
        assert lease is not None
        worst_first = {each.id: 1 + ("good" in each.text) for each in lease.candidates}
        await submit_ranking(session, lease.assignment_id, person, RankingIn(ranks=worst_first))
        await session.commit()
    await judge(sessions, settings, project, principles)
    async with sessions() as session:
        now = list(await session.scalars(select(Task.open_slots)))
        assert sum(slots) - sum(now) == 1
        assert await count_rankings(session, project.id) == 1
        assert await count_tasks(session, project.id) == (2, 1)
        people = await get_quality(session, project)
        assert {each.kind for each in people.raters} == {"person"}
        everybody = await get_quality(session, project, kinds=list(Kind))
        assert {each.kind for each in everybody.raters} == {"person", "ai"}
        # On the one task that both judged, they never agree on what is best.
        assert everybody.agreement != people.agreement
        assert await get_leaderboard(session, project) is not None


async def test_an_export_has_ai_rankings_only_when_they_are_asked_for(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path, tmp_path: Path
) -> None:
    project = await make(sessions, chat, "judge")
    report = await judge(sessions, settings, project, principles, revise=True)
    assert (report.ranked, report.revised) == (3, 3)
    split = Split(train=1, validation=0, test=0)
    for name, kinds, rows in (("people", None, 0), ("ai", [Kind.AI], 3)):
        filters = Filters() if kinds is None else Filters(kinds=kinds)
        async with sessions() as session:
            manifest = await build_export(session, project, filters, split, tmp_path / name, name)
        assert manifest["counts"]["train"]["rankings"] == rows
    assert manifest["raters"]["kinds"] == {"ai": 1}
    lines = (tmp_path / "ai" / "demonstrations.train.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for line in map(json.loads, lines):
        assert line["source"] == "rewrite"
        assert line["messages"][-1] == {"role": "assistant", "content": "a good good good answer"}
    async with sessions() as session:
        said = await session.scalar(select(Ranking.rationale))
        assert "Critique (good): it could be better" in (said or "")


async def test_a_critique_reads_the_best_response_and_a_revision_reads_the_critique(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path
) -> None:
    project = await make(sessions, chat, "judge", tasks=1)
    before = len(chat.requests)
    await judge(sessions, settings, project, principles, revise=True, rounds=2)
    talks = [each["messages"] for each in chat.requests[before:] if not each.get("logprobs")]
    assert [len(talk) for talk in talks] == [3, 5, 3, 5]
    first, second, third, _ = talks
    assert first[1] == {"role": "assistant", "content": "good good good"}
    assert first[2]["content"] == "Write a critique of it."
    assert second[3] == {"role": "assistant", "content": "it could be better"}
    assert second[4]["content"] == "Write it anew."
    assert third[1]["content"] == "a good good good answer"  # the next round starts from the last


async def test_what_is_done_is_not_done_again_even_by_two_at_once(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path
) -> None:
    project = await make(sessions, chat, "judge", tasks=6)
    part = await judge(sessions, settings, project, principles, limit=2)
    assert part.ranked == 2
    both = await asyncio.gather(*(judge(sessions, settings, project, principles) for _ in range(2)))
    assert sum(each.ranked for each in both) == 4
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Ranking)) == 6
        assert await session.scalar(select(func.count()).select_from(Comparison)) == 36
    assert (await judge(sessions, settings, project, principles)).ranked == 0
    # Revised afterwards, the rankings stay as they are.
    report = await judge(sessions, settings, project, principles, revise=True)
    assert (report.ranked, report.revised) == (0, 6)
    # Other principles are another rater.
    principles.write_text(PRINCIPLES.replace("Which is better?", "Which is nicer?"))
    assert (await judge(sessions, settings, project, principles)).ranked == 6
    async with sessions() as session:
        raters = select(func.count()).select_from(User).where(User.kind == Kind.AI)
        assert await session.scalar(raters) == 2


async def test_answers_that_are_none_are_counted_and_end_the_run_when_there_are_only_those(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, principles: Path
) -> None:
    project = await make(sessions, chat, "judge-mute", tasks=4)
    report = await judge(sessions, settings, project, principles)
    assert (report.ranked, report.failed) == (0, 4)
    assert report.failures == {"the answer is none of A, B: 'well'": 4}
    async with sessions() as session:
        await add_tasks(session, project, 20)
    with pytest.raises(TooManyFailures, match="tasks in a row had no usable answer"):
        await judge(sessions, settings, project, principles)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Ranking)) == 0


async def add_tasks(session: AsyncSession, project: Project, count: int) -> None:
    await create_tasks(session, await session.merge(project, load=False), count)
    await session.commit()


@pytest.mark.slow
async def test_a_model_of_this_machine_tells_its_own_chances(
    sessions: SessionMaker, settings: Settings, principles: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = make_local_model(tmp_path / "model")
    async with sessions() as session:
        project = await create_project(session)
        await create_policy(
            session, name="critic", backend=Backend.TRANSFORMERS, model=str(model), base_url=None
        )
        rows: Any = {"candidates": ["yes", "no"]}
        await create_tasks(session, project, 1, **rows)
        await session.commit()
    await judge(sessions, settings, project, principles)
    async with sessions() as session:
        (ranking,) = await session.scalars(select(Ranking))
        ranks = await ranks_in_order(session, ranking)
    from app.prompts.models import Prompt

    async with sessions() as session:
        (prompt,) = await session.scalars(select(Prompt))
    questions = pair_questions(
        prompt.messages, ["yes", "no"], Principle("good", "Which is better?")
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    chances = {}
    for order, question in questions.items():
        ids = tokenizer.apply_chat_template(
            list(question.messages), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([ids])).logits[0, -1]
        a, b = (tokenizer.convert_tokens_to_ids(label) for label in "AB")
        chances[order] = float(logits[[a, b]].softmax(0)[0])
    scores = scores_of(chances, 2)
    assert ranks == ranks_of(scores)
    assert f"{scores[0]:.2f}, {scores[1]:.2f}" in (ranking.rationale or "")


def make_local_model(folder: Path) -> Path:
    """A small untrained Llama that knows the letters A and B."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = [
        "<pad>",
        "<end>",
        "<unk>",
        "A",
        "B",
        "Question",
        "Response",
        "Answer",
        "yes",
        "no",
        ":",
    ]
    plain = Tokenizer(
        models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>")
    )
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=256,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


async def test_wrong_principles_and_policies_are_told_by_their_place(
    sessions: SessionMaker, settings: Settings, chat: ChatServer, tmp_path: Path
) -> None:
    file = tmp_path / "p.toml"
    for text, said in (
        ("[[principle]", "Expected"),
        ("a = 1", r"has no \[\[principle\]\]"),
        ("[[principle]]\nname = 'x'\ntone = 'y'", "there is no field 'tone'"),
        ("[[principle]]\nquestion = 'x'", "is missing"),
        ("[[principle]]\nname = ''", "must be text"),
        ("[[principle]]\nname = 'x'\n[[principle]]\nname = 'x'", "two principles"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=said):
            read_principles(file)
    project = await make(sessions, chat, "judge", tasks=1)
    file.write_text("[[principle]]\nname = 'x'\nquestion = 'which?'")
    with pytest.raises(InvalidInput, match="no principle has a critique"):
        await judge(sessions, settings, project, file, revise=True)
    with pytest.raises(NotFound):
        await give_feedback(sessions, settings, project, "nobody", read_principles(file))


def test_the_sample_principles_can_do_all_that_principles_can() -> None:
    found = read_principles(CHECKOUT / "docs" / "principles.toml")
    assert len(found.to_rank_by()) == len(found.to_revise_by()) == len(found.all) >= 3


def test_ranks_of_scores_share_places_where_scores_are_alike() -> None:
    assert ranks_of([0.5, 1.5, 0.5, 2.0]) == [3, 2, 3, 1]
    assert ranks_of([1.0, 1.0 + 1e-6]) == [1, 1]
    # A and B against each other, both ways round: 0.8 and 0.4 for the first.
    assert scores_of({(0, 1): 0.8, (1, 0): 0.6}, 2) == pytest.approx([0.6, 0.4])
