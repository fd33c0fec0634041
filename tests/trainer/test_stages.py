"""The stages through the real transformers code, on models small enough to watch."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import dpo, evaluate, generate, ppo, reward, rloo, sft
from trainer.data.files import read_rankings
from trainer.data.messages import split_transcripts
from trainer.engine import forward, models, tokens
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.responses import response_values
from trainer.errors import TrainerError, UsageError
from trainer.rl.rollout import sample
from trainer.run import artifacts
from trainer.settings.dpo import DPOConfig
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.generate import GenerateConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.rloo import RLOOConfig
from trainer.settings.sft import SFTConfig

CPU = torch.device("cpu")
ALONE = Processes(CPU)
CHECKOUT = Path(__file__).resolve().parents[2]


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = state_of(one), state_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def reward_run(tiny_model: str, rankings: Path, tmp_path: Path) -> Path:
    out = tmp_path / "reward"
    config = RewardConfig(
        data=str(rankings), model=tiny_model, out=str(out), lr=3e-3, epochs=6, batch_size=8,
        max_length=64,
    )  # fmt: skip
    reward.main(config)
    return out


def test_a_reward_model_learns_its_rankings_and_loads_as_one(reward_run: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    result = json.loads((reward_run / "result.json").read_text())
    assert result["test"]["accuracy"] > 0.85
    model = AutoModelForSequenceClassification.from_pretrained(reward_run / "model")
    assert model.config.num_labels == 1
    assert model.config.reward_mean == pytest.approx(result["reward_mean"])
    report = (reward_run / "report.html").read_text()
    assert "<svg" in report
    assert not re.search(r"(src|href)=\"(?!#)", report)  # it stands alone
    rows = [json.loads(line) for line in (reward_run / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((reward_run / "config.json").read_text())
    assert len(rows) == config["total_steps"]


def test_evaluation_of_the_saved_model_gives_the_runs_own_figures(
    reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    result = json.loads((reward_run / "result.json").read_text())
    held_out = tmp_path / "held-out.jsonl"
    data = read_rankings(rankings)
    with held_out.open("w") as lines:
        for each in data["test"]:
            candidates = [{"id": str(i), "text": text} for i, text in enumerate(each.candidates)]
            ranks = {str(i): rank for i, rank in enumerate(each.ranks)}
            row = {
                "messages": each.messages,
                "candidates": candidates,
                "rankings": [{"ranks": ranks}],
            }
            lines.write(json.dumps(row) + "\n")
    config = EvaluateConfig(
        data=str(held_out), reward=str(reward_run / "model"), max_length=64, response_length=32
    )
    found = evaluate.main(config)
    assert {"pairs", "accuracy", "log_loss", "calibration_error"} <= set(found)
    for name in ("pairs", "accuracy", "log_loss"):
        assert found[name] == pytest.approx(result["test"][name], abs=1e-5)


def test_the_mean_reward_of_preferred_responses_is_zero_after_reload(
    reward_run: Path, rankings: Path
) -> None:
    tokenizer = tokens.load_tokenizer(str(reward_run / "model"))
    model = models.load_reward_model(str(reward_run / "model"), tokenizer, CPU, seed=0)
    encoder = tokens.Encoder(tokenizer, 64)
    best = [
        (each.messages, each.candidates[each.ranks.index(min(each.ranks))])
        for each in read_rankings(rankings)["train"]
    ]
    assert abs(float(forward.score_texts(model, encoder, best).mean())) < 1e-3


def test_padding_on_either_side_changes_no_reward_value_or_logprob(
    tiny_model: str, reward_run: Path
) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    scorer = models.load_reward_model(str(reward_run / "model"), tokenizer, CPU, seed=0)
    policy = models.load_policy(tiny_model, tokenizer, CPU)
    row = [1, 4, 8, 9, 5, 10, 11, 2]
    plain, mask = tokens.pad_right([row], 0, CPU)
    left, left_mask = tokens.pad_left([row, [3] * 12], 7, CPU)
    right, right_mask = tokens.pad_right([row, [3] * 12], 7, CPU)
    with torch.no_grad():
        expected = forward.sequence_rewards(scorer, plain, mask)[0]
        for ids, masked in ((left, left_mask), (right, right_mask)):
            found = forward.sequence_rewards(scorer, ids, masked)[0]
            assert torch.allclose(found, expected, atol=1e-5)
        states = forward.hidden_states(policy, plain, mask)[0]
        padded = forward.hidden_states(policy, left[:1], left_mask[:1])[0, -len(row) :]
        assert torch.allclose(states, padded, atol=1e-5)


def test_our_reward_is_the_one_that_transformers_reads(reward_run: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = tokens.load_tokenizer(str(reward_run / "model"))
    ours = models.load_reward_model(str(reward_run / "model"), tokenizer, CPU, seed=0)
    theirs = AutoModelForSequenceClassification.from_pretrained(reward_run / "model")
    ids, mask = tokens.pad_right([[1, 4, 8, 5, 10, 2], [1, 4, 8, 9, 5, 10, 11, 2]], 0, CPU)
    with torch.no_grad():
        head = theirs(input_ids=ids, attention_mask=mask).logits[:, 0]
        own = forward.sequence_rewards(ours, ids, mask) + ours.config.reward_mean
    assert torch.allclose(head, own, atol=1e-5)


def make_ppo(tiny_model: str, reward_run: Path, rankings: Path, out: Path, **more: Any) -> Any:
    wanted: dict[str, Any] = {
        "data": str(rankings), "model": tiny_model, "reward": str(reward_run / "model"),
        "out": str(out), "lr": 1e-3, "batch_size": 16, "response_length": 8, "max_length": 32,
        "steps": 4, "checkpoint_every": 2,
    }  # fmt: skip
    return PPOConfig(**(wanted | more))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_the_first_update_ratios_are_one_and_kl_is_zero(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path, temperature: float
) -> None:
    config = make_ppo(
        tiny_model, reward_run, rankings, tmp_path, temperature=temperature, lr=1e-30,
        micro_batch=4,
    )  # fmt: skip
    trainer = ppo.PPOTrainer(config, ALONE)
    prompts = [[{"role": "user", "content": "tell me story"}]] * 16
    figures = trainer.update(prompts, 1, 4)
    assert figures["kl"] == 0
    assert figures["ratio"] == pytest.approx(1, abs=1e-5)
    assert figures["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert figures["clip_share"] == 0


def test_sampled_tokens_have_the_logprobs_that_training_computes(tiny_model: str) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy = models.load_policy(tiny_model, tokenizer, CPU)
    stream = torch.Generator().manual_seed(1)
    rollout = sample(
        policy, [[1, 4, 8, 5]] * 2000, length=1, temperature=1.0, end=2, pad=0, stream=stream
    )
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[1, 4, 8, 5]])).logits[0, -1]
    expected = logits.softmax(-1) * 2000
    counts = torch.bincount(rollout.response[:, 0], minlength=len(expected)).float()
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 60  # 27 degrees of freedom: the 99.97th percentile
    assert int((counts > 0).sum()) > 25  # nothing is cut off


def test_a_value_knows_nothing_of_its_own_token(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    trainer = ppo.PPOTrainer(make_ppo(tiny_model, reward_run, rankings, tmp_path), ALONE)
    rollout = trainer.roll_out([[{"role": "user", "content": "tell me"}]] * 2, trainer.stream)

    def values() -> torch.Tensor:
        micro_batches = trainer.build_micro_batches(rollout, range(2))
        return trainer.per_token(rollout, micro_batches, response_values, trainer.value_model)

    before = values()
    rollout.response[:, 0] = 9
    after = values()
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1:], after[:, 1:]) or rollout.length == 1


def test_missing_ends_cost_their_penalty_and_real_ends_do_not(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    prompts = [[{"role": "user", "content": "tell me story"}]] * 32
    trainer = ppo.PPOTrainer(
        make_ppo(tiny_model, reward_run, rankings, tmp_path, missing_eos_penalty=5.0), ALONE
    )
    experience = trainer.collect(prompts)
    ended = experience.rollout.ended
    assert bool(ended.any())
    assert bool((~ended).any())
    difference = experience.raw_scores - experience.scores
    assert torch.allclose(difference, 5.0 * (~ended).float(), atol=1e-5)


def test_gradient_accumulation_changes_nothing(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    prompts = [[{"role": "user", "content": "tell me story"}]] * 8
    found = []
    for micro in (8, 1):
        config = make_ppo(
            tiny_model, reward_run, rankings, tmp_path, micro_batch=micro, batch_size=8,
            minibatches=1, ppo_epochs=1,
        )  # fmt: skip
        trainer = ppo.PPOTrainer(config, ALONE)
        trainer.update(prompts, 1, 4)
        found.append(torch.cat([p.detach().flatten() for p in trainer.policy.parameters()]))
    one, other = found
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_ppo_raises_the_reward_and_leaves_its_reference_alone(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ppo"
    # Without the penalty for what never ends: the figures below are of the reward model alone.
    free = {"kl_coef": 0.01, "missing_eos_penalty": 0.0}
    result = ppo.main(make_ppo(tiny_model, reward_run, rankings, out, steps=24, **free))
    assert result["held_out"]["win_rate"] > 0.7
    assert result["held_out"]["kl"] > 0
    assert "Before" in (out / "report.html").read_text()
    config = EvaluateConfig(
        data=str(rankings), reward=str(reward_run / "model"), policy=str(out / "model"),
        against=tiny_model, max_length=32, response_length=8,
    )  # fmt: skip
    figures = evaluate.main(config)
    assert set(figures) >= {"win_rate", "reward_mean", "kl"}
    assert figures["win_rate"] > 0.7


def make_rloo(model: str, reward_run: Path, data: Path, out: Path, **more: Any) -> RLOOConfig:
    settings = {"steps": 4, "batch_size": 16, "responses": 4, "lr": 3e-3, "kl_coef": 0.01} | more
    return RLOOConfig(
        data=str(data), model=model, reward=str(reward_run / "model"), out=str(out),
        max_length=32, response_length=8, device="cpu", **settings,
    )  # fmt: skip


def test_rloo_raises_the_reward_without_a_value_model(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rloo"
    config = make_rloo(tiny_model, reward_run, rankings, out, steps=30, missing_eos_penalty=0.0)
    result = rloo.main(config)
    assert result["held_out"]["score"] > result["held_out"]["start_score"]
    first, *_, last = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]
    assert first["kl"] == 0
    assert last["score"] > first["score"]
    assert (out / "model" / "config.json").exists()


def test_rloo_accumulates_gradients_exactly_and_ends_equal_rewards_where_they_are(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    prompts = [[{"role": "user", "content": "tell me story"}]] * 2
    found = []
    for micro in (8, 1):
        config = make_rloo(
            tiny_model, reward_run, rankings, tmp_path, batch_size=8, micro_batch=micro
        )
        trainer = rloo.RLOOTrainer(config, ALONE)
        trainer.update(prompts, 1, 4)
        found.append(torch.cat([p.detach().flatten() for p in trainer.policy.parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-5)
    trainer = rloo.RLOOTrainer(config, ALONE)
    rollout = trainer.roll_out(prompts, trainer.stream)
    before = [p.detach().clone() for p in trainer.policy.parameters()]
    figures = trainer.update_policy(rollout, torch.zeros(2))
    assert figures["grad_norm"] == 0
    assert all(
        torch.equal(one, other)
        for one, other in zip(before, trainer.policy.parameters(), strict=True)
    )


def test_the_best_of_more_samples_has_more_reward(
    tiny_model: str, reward_run: Path, rankings: Path
) -> None:
    figures = []
    for count in (1, 8):
        config = EvaluateConfig(
            data=str(rankings), reward=str(reward_run / "model"), policy=tiny_model,
            against=tiny_model, best_of=count, max_length=32, response_length=8,
        )  # fmt: skip
        figures.append(evaluate.main(config))
    assert figures[1]["reward_mean"] > figures[0]["reward_mean"]
    assert figures[1]["win_rate"] > figures[0]["win_rate"]
    assert figures[1]["best_of_kl"] == pytest.approx(1.2044, abs=1e-3)
    assert figures[1]["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "ppo", "rloo"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path, stage: str
) -> None:
    def config(out: str, **more: Any) -> Any:
        if stage == "ppo":
            return make_ppo(tiny_model, reward_run, rankings, tmp_path / out, **more)
        if stage == "rloo":
            more |= {"checkpoint_every": 2}
            return make_rloo(tiny_model, reward_run, rankings, tmp_path / out, **more)
        return RewardConfig(
            data=str(rankings), model=tiny_model, out=str(tmp_path / out), steps=4, batch_size=4,
            checkpoint_every=2, max_length=64, lr=1e-3, **more,
        )  # fmt: skip

    module: Any = {"ppo": ppo, "rloo": rloo, "reward": reward}[stage]
    module.main(config("whole"))
    module.main(config("parts"))
    # As after a kill behind step 3: the newest checkpoint is that of step 2.
    last = tmp_path / "parts" / "checkpoints" / "step-00000004"
    (last / "state.pt").unlink()
    with pytest.raises(UsageError, match="--resume"):
        module.main(config("parts"))
    module.main(config("parts", resume=True))
    assert same(tmp_path / "whole" / "model", tmp_path / "parts" / "model")
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for one, other in zip(*rows, strict=True):
        one.pop("tokens_per_second", None)
        other.pop("tokens_per_second", None)
        assert one == other


def test_a_checkpoint_of_another_run_is_refused(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    wanted = {"data": str(rankings), "model": tiny_model, "out": str(tmp_path / "run"), "steps": 2}
    reward.main(RewardConfig(**wanted, max_length=64))  # type: ignore[arg-type]
    other = RewardConfig(**wanted, max_length=64, seed=9, resume=True)  # type: ignore[arg-type]
    with pytest.raises(TrainerError, match="another run: seed was 0, is 9"):
        reward.main(other)


def test_sft_teaches_what_to_say_and_when_to_end(tiny_model: str, tmp_path: Path) -> None:
    file = tmp_path / "demonstrations.train.jsonl"
    messages = [
        {"role": "user", "content": "tell me story"},
        {"role": "assistant", "content": "the cat sat ."},
    ]
    file.write_text((json.dumps({"messages": messages}) + "\n") * 16)
    out = tmp_path / "sft"
    sft.main(
        SFTConfig(data=str(file), model=tiny_model, out=str(out), steps=60, lr=1e-2, max_length=64)
    )
    done = generate.main(
        GenerateConfig(
            model=str(out / "model"),
            data=str(file),
            out=str(tmp_path / "c.jsonl"),
            candidates=2,
            response_length=16,
            max_length=64,
        )
    )
    assert done["responses"] == 2
    row = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])
    assert [each["text"] for each in row["candidates"]] == ["the cat sat ."] * 2


def test_dpo_starts_at_ln_2_and_learns(tiny_model: str, rankings: Path, tmp_path: Path) -> None:
    out = tmp_path / "dpo"
    config = DPOConfig(
        data=str(rankings), model=tiny_model, out=str(out), steps=60, lr=2e-3, max_length=64
    )
    result = dpo.main(config)
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert result["validation"]["accuracy"] > 0.75


def test_a_tokenizer_of_another_family_is_read_through_its_text(
    tiny_model: str, reward_run: Path, rankings: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    tokenizer: Any = tokens.load_tokenizer(str(reward_run / "model"))
    model = models.load_reward_model(str(reward_run / "model"), tokenizer, CPU, seed=0)
    tokenizer.add_tokens(["elephant"])
    model.resize_token_embeddings(len(tokenizer))
    artifacts.save_model(model, tokenizer, other)
    config = make_ppo(tiny_model, reward_run, rankings, tmp_path / "x", reward=str(other))
    trainer = ppo.PPOTrainer(config, ALONE)
    assert not trainer.rewards.first.same_tokens
    assert float(trainer.value_model.score.weight.detach().abs().max()) == 0
    experience = trainer.collect([[{"role": "user", "content": "tell me"}]] * 4)
    assert bool(torch.isfinite(experience.scores).all())


BROKEN = {
    "broken.jsonl": ('{"prompt": "a"', "broken.jsonl:1: is not JSON"),
    "field.jsonl": ('{"chosen": "x"}', "field.jsonl:1: rejected: is missing"),
    "type.jsonl": ('{"prompt": 3, "chosen": "x", "rejected": "y"}', "type.jsonl:1: prompt"),
    "empty.jsonl": ("", "holds no rankings"),
    "tied.jsonl": (
        '{"messages": "q", "candidates": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}], '
        '"rankings": [{"ranks": {"a": 1, "b": 1}}]}',
        "has no rankings to train on",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_bad_data_is_told_by_its_place(tiny_model: str, tmp_path: Path, name: str) -> None:
    text, reason = BROKEN[name]
    file = tmp_path / name
    file.write_text(text)
    command = [sys.executable, "-m", "trainer", "reward", "--data", str(file)]
    done = subprocess.run(
        [*command, "--model", tiny_model, "--out", str(tmp_path / "out")],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert reason in done.stderr.strip().splitlines()[-1]


def test_usage_errors_come_at_once_without_torch() -> None:
    started = time.monotonic()
    for words, reason in (
        (["reward"], "--data is needed"),
        (["ppo", "--stops", "3"], "unrecognized"),
        (["fly"], "no stage 'fly'"),
        (["reward", "--data", "x", "--model", "y", "--out", "z", "--lr", "-1"], "--lr"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *words],
            cwd=CHECKOUT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert reason in done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_writes_a_checkpoint_first(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["reward", "--data", str(rankings), "--model", tiny_model, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words, "--steps", "100000", "--max-length", "64"],
        cwd=CHECKOUT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size > 200
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "go on with --resume" in said
    assert list((out / "checkpoints").glob("step-*/state.pt"))


def test_transcripts_part_at_their_last_common_human_turn() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    messages, chosen, rejected = split_transcripts(f"{start} Because.", f"{start} No idea.")
    assert [each["content"] for each in messages] == ["Hi", "Hello", "Why?"]
    assert (chosen, rejected) == ("Because.", "No idea.")


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("count", "size"), [(37, 8), (64, 8), (5, 8), (1, 3)])
def test_batches_hold_every_example_once_an_epoch_in_a_fresh_order(
    count: int, size: int, by_length: bool
) -> None:
    lengths = [(7 * n) % 23 for n in range(count)] if by_length else None
    order = Batches(count, size, seed=1, lengths=lengths)
    steps = 6 * count
    seen = [example for step in range(1, steps + 1) for example in order(step)]
    epochs = [seen[start : start + count] for start in range(0, len(seen), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs[:-1])
    assert count < 5 or len({tuple(epoch) for epoch in epochs[:4]}) == 4
    # A resumed run asks for a late step first.
    assert Batches(count, size, seed=1, lengths=lengths)(steps) == order(steps)


def test_batches_by_length_leave_little_padding_and_come_in_no_order_of_length() -> None:
    stream = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 200, (512,), generator=stream).tolist()

    def padding(order: Batches) -> float:
        batches = [[lengths[index] for index in order(step)] for step in range(1, 33)]
        return 1 - sum(map(sum, batches)) / sum(max(each) * len(each) for each in batches)

    plain = padding(Batches(512, 16, seed=0))
    sorted_ = Batches(512, 16, seed=0, lengths=lengths)
    assert padding(sorted_) < plain / 4
    means = [sum(lengths[index] for index in sorted_(step)) / 16 for step in range(1, 33)]
    rises = sum(one < other for one, other in itertools.pairwise(means))
    assert 8 < rises < 24
