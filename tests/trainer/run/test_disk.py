"""A disk that is full, and a run that is gone on with under another spelling of its paths."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.run.directory import same_place

STEPS = ["--steps", "2", "--batch-size", "4", "--max-length", "48", "--device", "cpu"]


@contextmanager
def small_disk(size: int = 20_000) -> Iterator[None]:
    """No file can grow beyond so many bytes: the kernel refuses the write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_a_full_disk_is_one_line_and_the_run_goes_on(
    tiny_model: str, rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["reward", "--data", str(rankings), "--model", tiny_model, *STEPS, "--out", str(out)]
    with small_disk():
        assert main(flags) == 1
    assert last_line(capsys).startswith(
        f"trainer reward: {out}/checkpoints/.new: cannot be written"
    )
    assert not (out / "checkpoints" / ".new").exists(), "the half is taken away"
    assert main([*flags, "--resume"]) == 0
    whole = (out / "metrics.jsonl").read_text()

    # The same at the model, with all steps made.
    shutil.rmtree(out / "model")
    (out / "result.json").unlink()
    with small_disk():
        assert main([*flags, "--resume"]) == 1
    assert last_line(capsys).startswith(f"trainer reward: {out}/model.new: cannot be written")
    assert not (out / "model").exists()
    assert not (out / "model.new").exists()
    assert main([*flags, "--resume"]) == 0
    assert (out / "metrics.jsonl").read_text() == whole
    assert json.loads((out / "result.json").read_text())["steps"] == 2


def test_a_run_goes_on_by_what_its_paths_hold(
    tiny_model: str,
    rankings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    rankings.rename("data/rankings.train.jsonl")
    shutil.copytree(tiny_model, "start")
    flags = ["reward", *STEPS, "--out", "run"]
    assert main([*flags, "--data", "data", "--model", "start"]) == 0
    whole = Path("run/metrics.jsonl").read_text()
    for data, model in (
        ("./data", "start/"),
        ("data/", "./start"),
        (str(Path("data").resolve()), "start"),
    ):
        assert main([*flags, "--data", data, "--model", model, "--resume"]) == 0
    # What was moved with all that it holds is the same; what holds something else is not.
    Path("data").rename("elsewhere")
    assert main([*flags, "--data", "elsewhere", "--model", "start", "--resume"]) == 0
    assert Path("run/metrics.jsonl").read_text() == whole
    with Path("elsewhere/rankings.train.jsonl").open("a") as file:
        file.write(rankings_line())
    capsys.readouterr()
    assert main([*flags, "--data", "elsewhere", "--model", "start", "--resume"]) == 1
    assert last_line(capsys).endswith("another run: data_hash differs")


def rankings_line() -> str:
    return json.dumps({"prompt": "tell me", "chosen": "the sun", "rejected": "a cat"}) + "\n"


def test_paths_are_the_same_by_where_they_lead() -> None:
    assert same_place("a/b", "./a//b/")
    assert same_place("a,b", "./a, b")
    assert same_place(3, 3)
    assert not same_place("a,b", "b,a")
    assert not same_place("a", "b")
    assert not same_place("", ".")
    assert not same_place(None, "a")
