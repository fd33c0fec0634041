"""The trainer says which stages there are; the application keeps no list of its own and asks it."""

import ast
import math
import subprocess
import sys

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.errors import InvalidInput
from app.settings import CHECKOUT
from app.training.catalogue import as_arguments, check_flags, get_stage, list_stages
from tests.factories.accounts import create_user, sign_in


async def test_the_trainers_stages_are_told_with_what_they_need_and_make() -> None:
    stages = await list_stages()
    assert set(stages) == {"sft", "reward", "ppo", "rloo", "dpo"}
    assert {name for name, stage in stages.items() if "reward" in stage.needs} == {"ppo", "rloo"}
    assert [name for name, stage in stages.items() if stage.makes == "reward"] == ["reward"]
    assert "kl-coef" in stages["ppo"].flag_names
    # What names a place on the worker's machine is not chosen from afar.
    for local in ("data", "out", "model", "reward", "reference", "rollout-server", "trackers"):
        assert local not in stages["ppo"].flag_names
    with pytest.raises(InvalidInput, match="no stage 'grpo', only"):
        await get_stage("grpo")


@pytest.mark.parametrize(
    ("stage", "flags", "field", "said"),
    [
        ("reward", {"lr": math.inf}, "config.lr", "finite"),
        ("reward", {"lr": "fast"}, "config.lr", "float"),
        ("reward", {"seed": 2**70}, "config.seed", "below 2"),
        ("reward", {"kl-coef": 0.1}, "config.kl-coef", "no setting"),
        ("ppo", {"rollout-server": "http://x"}, "config.rollout-server", "no setting"),
        ("ppo", {"response_length": 512}, "config.response-length", "no room"),
        ("ppo", {"batch-size": 7}, "config.batch-size", "does not divide"),
    ],
)
async def test_settings_that_the_trainer_refuses_are_refused_when_the_run_is_asked_for(
    stage: str, flags: dict[str, int | float | bool | str], field: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        await check_flags(stage, flags)
    assert refused.value.field == field


async def test_settings_are_kept_by_their_flags_names_and_passed_on_as_flags() -> None:
    kept = await check_flags("sft", {"batch_size": 4, "packing": True, "lr": 1e-5})
    assert kept == {"batch-size": 4, "packing": True, "lr": 1e-5}
    assert as_arguments({**kept, "compile": False}) == [
        "--batch-size=4", "--packing", "--lr=1e-05", "--no-compile",
    ]  # fmt: skip


async def test_the_form_offers_what_the_trainer_tells(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    page = (await client.get("/research/runs")).text
    for name, stage in (await list_stages()).items():
        assert f'<option value="{name}"' in page
        assert f"{stage.title}: {stage.summary}" in page
    assert "PPO, RLOO: beta: the price of a nat of KL" in page


def test_listing_the_stages_needs_no_torch() -> None:
    code = (
        "import sys; from trainer.__main__ import main; main(['stages']);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL
    )


def lists_of_stages(source: str, names: set[str]) -> list[int]:
    """Lines where a list, set, tuple or dictionary has two or more of the names among its constants."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.List(elts=members) | ast.Tuple(elts=members) | ast.Set(elts=members):
                constants = members
            case ast.Dict(keys=keys):
                constants = [key for key in keys if key is not None]
            case _:
                continue
        found = {each.value for each in constants if isinstance(each, ast.Constant)} & names
        if len(found) > 1:
            lines.append(node.lineno)
    return lines


async def test_no_second_list_of_stages_stands_in_the_application() -> None:
    names = set(await list_stages())
    assert lists_of_stages("ONLINE = ('ppo', 'rloo')", names) == [1], (
        "the check must be able to fail"
    )
    for file in (CHECKOUT / "app").rglob("*.py"):
        assert not lists_of_stages(file.read_text(), names), file
    for folder, pattern in (("templates", "*.html"), ("static", "*.js")):
        for file in (CHECKOUT / folder).rglob(pattern):
            words = {name for name in names - {"reward"} if f'"{name}"' in file.read_text()}
            assert not words, f"{file}: {words}"
