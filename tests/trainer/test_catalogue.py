"""What a stage says of itself is true of its runs."""

import dataclasses
import html
import json
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.settings import Stage, list_stages

TRAINING = {name: stage for name, stage in list_stages().items() if stage.makes}


@pytest.mark.parametrize(("name", "stage"), TRAINING.items(), ids=TRAINING)
def test_an_entry_is_whole(name: str, stage: Stage) -> None:
    assert stage.title
    assert stage.card
    assert stage.makes in ("policy", "reward")
    assert stage.curves, "a run page with nothing to draw"
    fields = {each.name for each in dataclasses.fields(stage.config)}
    for curve in stage.curves:
        assert 1 <= len(curve.metrics) <= 3
        assert curve.only_with is None or curve.only_with in fields
    assert set(stage.needs) <= fields, "what a stage needs is given by a flag of that name"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_every_curve_of_a_run_has_its_figures_and_stands_in_the_report(
    name: str, tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    reward = tmp_path / "reward"
    demonstrations = tmp_path / "demonstrations.jsonl"
    with demonstrations.open("w") as lines:
        for line in rankings.read_text().splitlines():
            row = json.loads(line)
            turn = {"role": "assistant", "content": row["candidates"][0]["text"]}
            lines.write(json.dumps({"messages": [*row["messages"], turn]}) + "\n")
    data = demonstrations if name == "sft" else rankings
    options = ["--data", str(data), "--device", "cpu", "--batch-size", "8"]
    flags = [*options, "--model", tiny_model, "--steps", "2", "--max-length", "48"]
    if TRAINING[name].needs:
        assert main(["reward", *flags, "--out", str(reward)]) == 0
        flags += ["--reward", str(reward / "model"), "--response-length", "4"]
    assert main([name, *flags, "--out", str(tmp_path / name)]) == 0
    entry = json.loads((tmp_path / name / "config.json").read_text())["catalogue"]
    metrics = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in metrics]
    report = html.unescape((tmp_path / name / "report.html").read_text())
    assert entry["title"] == TRAINING[name].title
    for curve in entry["curves"]:
        for metric in curve["metrics"]:
            assert any(row.get(metric) is not None for row in rows), (curve["title"], metric)
        assert curve["title"] in report
