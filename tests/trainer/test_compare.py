"""One command, one table: every method from the same start, on the same data, measured alike."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer import compare
from trainer.__main__ import main
from trainer.errors import UsageError
from trainer.settings.compare import CompareConfig

SETTINGS = """
[reward]
steps = 20
batch_size = 8
lr = 3e-3
[sft]
steps = 3
batch_size = 8
lr = 1e-3
[dpo]
steps = 6
batch_size = 8
lr = 1e-3
[ppo]
steps = 6
batch_size = 16
lr = 1e-3
kl_coef = 0.05
missing_eos_penalty = 0
normalise_rewards = false
[rloo]
steps = 6
batch_size = 16
lr = 3e-3
normalise_rewards = false
"""


@pytest.fixture
def words(tiny_model: str, rankings: Path, tmp_path: Path) -> list[str]:
    """Rankings of two, which are demonstrations too, and quick settings."""
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as lines:
        for text in rankings.read_text().splitlines():
            row = json.loads(text)
            ranks = row["rankings"][0]["ranks"]
            best, worst = min(ranks, key=ranks.get), max(ranks, key=ranks.get)
            said = {each["id"]: each["text"] for each in row["candidates"]}
            turn = {"chosen": said[best], "rejected": said[worst]}
            if ranks[best] != ranks[worst]:
                lines.write(json.dumps({"prompt": row["messages"], **turn}) + "\n")
    (tmp_path / "stages.toml").write_text(SETTINGS)
    return [
        "compare", "--data", str(pairs), "--model", tiny_model, "--out", str(tmp_path / "out"),
        "--settings", str(tmp_path / "stages.toml"), "--max-length", "48", "--best-of", "4",
        "--response-length", "8", "--device", "cpu", "--prompts", str(rankings),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_table_has_every_method_and_the_plot_its_points(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--kl-scales", "1,100"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.strip().splitlines()[-1])
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in result["methods"]:
        rows.setdefault(row["method"], []).append(row)
        assert row["method"] in said.err
    assert {name: len(found) for name, found in rows.items()} == {
        "sft": 1, "dpo": 2, "ppo": 2, "rloo": 2, "best of 4": 1,
    }  # fmt: skip
    # All are measured on the same responses of the start.
    assert len({row["against_reward_mean"] for row in result["methods"]}) == 1
    (best,) = rows["best of 4"]
    assert best["kl"] == pytest.approx(math.log(4) - 3 / 4)
    assert best["win_rate"] > 0.6
    for method in ("ppo", "rloo", "dpo"):
        loose, held = rows[method]
        assert held["kl_price"] == pytest.approx(100 * loose["kl_price"])
        if method != "dpo":  # whose first steps go further with a greater beta
            assert held["kl"] < loose["kl"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<svg") == 2
    for name in ("sft", "dpo", "ppo", "rloo", "best of 4"):
        assert f">{name}</text>" in report  # in the legends


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_another_comparison_is_refused(
    words: list[str], tmp_path: Path
) -> None:
    few = [*words, "--methods", "dpo"]
    assert main(few) == 0
    first = json.loads((tmp_path / "out" / "result.json").read_text())
    stamp = (tmp_path / "out" / "dpo" / "result.json").stat().st_mtime_ns
    assert main(few) == 0
    assert (tmp_path / "out" / "dpo" / "result.json").stat().st_mtime_ns == stamp
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == first
    # A run that is gone is made again, the others stay.
    reward = (tmp_path / "out" / "reward" / "result.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "dpo")
    assert main(few) == 0
    assert (tmp_path / "out" / "reward" / "result.json").stat().st_mtime_ns == reward
    assert main([*few, "--seed", "5"]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fly]\nlr = 1.0", "'fly' is no stage's table"),
        ("[ppo]\nspeed = 1", "ppo has no setting 'speed'"),
        ("[ppo", "Expected"),
    ],
)
def test_wrong_settings_are_told_by_their_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "stages.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        compare.read_settings(str(file))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"methods": "ppo,magic"}, "--methods: there is no 'magic'"),
        ({"kl_scales": "1,x"}, "--kl-scales must be numbers"),
        ({"kl_scales": "0"}, "--kl-scales must be above 0"),
        ({"best_of": 1}, "--best-of"),
    ],
)
def test_impossible_comparisons_are_refused_at_once(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CompareConfig(data="d", model="m", out="o", **more)
