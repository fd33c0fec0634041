"""The run around PPO's and RLOO's updates: which prompts they see, when it ends, how it goes on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.rl.conftest import Models
from trainer import ppo, rloo
from trainer.data.examples import Messages
from trainer.errors import UsageError
from trainer.rl.loop import to_samples
from trainer.rl.trainer import HeldoutEvaluation
from trainer.settings.ppo import PPOConfig
from trainer.settings.rloo import RLOOConfig

WORDS = ("cat", "dog", "fox", "sun", "moon", "tree", "hill", "the", "a", "in", "on", "no")
TRAIN = [f"tell me story {word}" for word in WORDS]
VALIDATION = ["yes please", "sang the dog", "the hill"]
TEST = ["moon under tree", "no"]
STAGES = pytest.mark.parametrize("stage", ["ppo", "rloo"])


def write_prompts(folder: Path, **splits: Sequence[str]) -> str:
    """An export of conversations that begin with these prompts."""
    folder.mkdir()
    for split, prompts in splits.items():
        rows = [
            {"messages": [{"role": "user", "content": prompt},
                          {"role": "assistant", "content": "the sun"}]}
            for prompt in prompts
        ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"demonstrations.{split}.jsonl").write_text(text)
    return str(folder)


class Script:
    """What the updates of a run say, and what it did with them."""

    def __init__(self, kls: Sequence[float] = (0.0,) * 20) -> None:
        self.kls = kls
        self.updates: list[tuple[int, int, list[str]]] = []  # step, of how many, prompts
        self.evaluated: list[list[str]] = []
        self.evaluations: list[HeldoutEvaluation] = []
        self.saved: list[int] = []  # after which update

    def play(self, kind: type) -> type:
        """A trainer of this kind whose updates are scripted: all else is real."""
        script = self

        class Scripted(kind):  # type: ignore[misc]
            def update(self, prompts: Sequence[Messages], step: int, total: int) -> Any:
                script.updates.append((step, total, [each[-1]["content"] for each in prompts]))
                with torch.no_grad():
                    for weight in self.policy.parameters():
                        weight += 0.05
                return {"score": float(step), "kl": script.kls[step - 1], "kl_coef": step / 4}

            def evaluate(self, prompts: Sequence[Messages]) -> HeldoutEvaluation:
                script.evaluated.append([each[-1]["content"] for each in prompts])
                script.evaluations.append(super().evaluate(prompts))
                return script.evaluations[-1]

            def state(self) -> Any:
                script.saved.append(len(script.updates))
                return super().state()

        return Scripted


@pytest.fixture
def run(
    models_of: Callable[[str], Models], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A run of a stage, by a script if there is one; its result."""
    models = models_of("Llama")
    data = write_prompts(tmp_path / "data", train=TRAIN, validation=VALIDATION, test=TEST)

    def start(stage: str, script: Script | None = None, **more: Any) -> Any:
        given: dict[str, Any] = {
            "data": data, "model": models.policy, "reward": models.reward, "device": "cpu",
            "out": str(tmp_path / "run"), "batch_size": 4, "response_length": 4, "max_length": 24,
        }  # fmt: skip
        with monkeypatch.context() as patch:
            if stage == "ppo":
                if script is not None:
                    patch.setattr(ppo, "PPOTrainer", script.play(ppo.PPOTrainer))
                return ppo.main(PPOConfig(**given | more))
            if script is not None:
                patch.setattr(rloo, "RLOOTrainer", script.play(rloo.RLOOTrainer))
            return rloo.main(RLOOConfig(**given | {"responses": 2} | more))

    return start


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@STAGES
def test_a_run_trains_on_the_training_prompts_of_its_data_and_on_no_others(
    run: Callable[..., Any], tmp_path: Path, stage: str
) -> None:
    size = 4 if stage == "ppo" else 2  # RLOO answers each prompt twice
    scripts = Script(), Script()
    result = run(stage, scripts[0], epochs=2.0)
    more = {"out": str(tmp_path / "other"), "seed": 1}
    other = write_prompts(tmp_path / "only", train=TRAIN, test=TEST)
    run(stage, scripts[1], epochs=2.0, data=other, **more)
    steps = 2 * len(TRAIN) // size
    assert result["steps"] == steps
    assert result["episodes"] == steps * 4
    orders = []
    for script in scripts:
        assert [(step, total) for step, total, _ in script.updates] == [
            (step, steps) for step in range(1, steps + 1)
        ]
        assert {len(prompts) for _, _, prompts in script.updates} == {size}
        seen = [prompt for _, _, prompts in script.updates for prompt in prompts]
        epochs = [seen[: len(TRAIN)], seen[len(TRAIN) :]]
        assert all(sorted(epoch) == sorted(TRAIN) for epoch in epochs)
        assert epochs[0] != epochs[1]
        orders.append(epochs[0])
    assert orders[0] != orders[1]  # --seed
    assert scripts[0].evaluated == [VALIDATION] * 2
    assert scripts[1].evaluated == [TEST] * 2  # where nothing else is held out


def test_a_run_makes_as_many_steps_as_it_is_told_or_as_its_epochs_come_to(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    script = Script()
    assert run("ppo", script, steps=5)["steps"] == 5
    assert [(step, total) for step, total, _ in script.updates] == [(n, 5) for n in range(1, 6)]
    more = {"out": str(tmp_path / "other")}
    assert run("ppo", Script(), epochs=0.75, batch_size=2, **more)["steps"] == 4


@STAGES
def test_a_run_ends_where_its_kl_passes_what_was_allowed(
    run: Callable[..., Any], tmp_path: Path, stage: str
) -> None:
    script = Script(kls=(0.5, 4.9, 5.0, 5.1, 0.2, 0.1))
    result = run(stage, script, steps=6, kl_stop=5.0)
    assert [step for step, _, _ in script.updates] == [1, 2, 3, 4]
    assert result["ended_by_kl"] is True
    assert result["steps"] == 4
    assert script.saved == [4]
    # Resumed where it had ended, it ends there.
    again = Script(kls=script.kls)
    assert run(stage, again, steps=6, kl_stop=5.0, resume=True)["steps"] == 4
    assert again.updates == []


def test_checkpoints_are_as_far_apart_as_asked(run: Callable[..., Any], tmp_path: Path) -> None:
    script = Script(kls=(1e3,) * 5)
    assert run("ppo", script, steps=5, checkpoint_every=2)["ended_by_kl"] is False
    assert script.saved == [2, 4, 5]
    kept = sorted(each.name for each in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000005"]


@STAGES
def test_a_resumed_run_goes_on_with_the_price_of_kl_that_it_had_come_to(
    run: Callable[..., Any], tmp_path: Path, stage: str
) -> None:
    """And with its draws, its moments and its place in the demonstrations: the same figures to the end."""
    more: dict[str, Any] = {"steps": 3, "checkpoint_every": 2, "lr": 1e-3}
    more |= {"kl_target": 0.01, "kl_horizon": 8.0}
    if stage == "ppo":
        more |= {"ppo_epochs": 1, "ptx_coef": 1.0}
    result = run(stage, **more)
    folder = tmp_path / "run"
    whole = metrics_of(folder)
    prices = [row["kl_coef"] for row in whole]
    assert len(set(prices)) == 3  # it adapts every time
    # As after a kill behind step 2: the newest checkpoint is that of step 2.
    (folder / "checkpoints" / "step-00000003" / "state.pt").unlink()
    assert run(stage, resume=True, **more) == result
    again = metrics_of(folder)
    for row in (*whole, *again):
        row.pop("tokens_per_second")
    assert again == whole


def test_the_result_compares_the_trained_policy_with_where_it_started(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    script = Script(kls=[float(step) for step in range(12)])
    result = run("ppo", script, steps=12)
    before, after = script.evaluations
    assert before.texts != after.texts
    assert before.kl == pytest.approx(0, abs=1e-6)
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, other in zip(after.rewards.tolist(), before.rewards.tolist(), strict=True)
    ]
    found = result["held_out"]
    assert found["prompts"] == 3
    assert found["win_rate"] == pytest.approx(sum(wins) / 3)
    assert found["score"] == pytest.approx(float(after.rewards.mean()))
    assert found["start_score"] == pytest.approx(float(before.rewards.mean()))
    assert found["kl"] == after.kl > 0
    # The last ten updates, in a few figures.
    assert result["score"] == pytest.approx(sum(range(3, 13)) / 10)
    assert result["kl"] == pytest.approx(sum(range(2, 12)) / 10)
    assert result["kl_coef"] == 3.0
    samples = to_samples(
        [[{"role": "user", "content": text}] for text in VALIDATION], before, after
    )
    assert [
        (each.prompt, each.before, each.after, each.reward_before, each.reward_after)
        for each in samples
    ] == list(
        zip(VALIDATION, before.texts, after.texts, before.rewards.tolist(),
            after.rewards.tolist(), strict=True)
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@STAGES
def test_a_device_that_is_not_there_is_refused(
    run: Callable[..., Any], tmp_path: Path, stage: str
) -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        run(stage, device="cuda")
    assert not (tmp_path / "run").exists()
