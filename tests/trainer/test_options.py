"""What a run may be asked for besides: each option does what it says, and changes nothing else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import dpo, ppo, reward, sft
from trainer.data.files import read_demonstrations, read_rankings
from trainer.engine import capabilities, lora, models, responses, shared_prefix, tokens
from trainer.engine.distributed import Processes
from trainer.engine.fit import Learner
from trainer.engine.prepare import prepare_model
from trainer.errors import TrainerError, UsageError
from trainer.formulas import losses, ties
from trainer.settings.dpo import DPOConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

CPU = torch.device("cpu")
ALONE = Processes(CPU)
PROMPTS = [
    [{"role": "user", "content": f"tell me story {word}"}] for word in ["cat", "dog", "fox", "sun"]
]


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    """Two replies to many prompts, in conversations of one turn and of two."""
    file = tmp_path / "demonstrations.jsonl"
    with file.open("w") as lines:
        for number in range(60):
            said = ["the cat sat", "a dog ran on the hill under the sun"][number % 2]
            turn = [
                {"role": "user", "content": f"tell me story {number % 7}"},
                {"role": "assistant", "content": said},
            ]
            lines.write(json.dumps({"messages": turn * (1 + number % 3 // 2)}) + "\n")
    return file


def sft_config(model: str, data: Path, out: Path, **more: Any) -> SFTConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "out": str(out), "lr": 2e-3, "steps": 4,
        "batch_size": 8, "max_length": 64, "device": "cpu",
    }  # fmt: skip
    return SFTConfig(**(wanted | more))


def reward_config(model: str, data: Path, out: Path, **more: Any) -> RewardConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "out": str(out), "lr": 3e-3, "steps": 6,
        "batch_size": 8, "max_length": 64, "device": "cpu",
    }  # fmt: skip
    return RewardConfig(**(wanted | more))


def ppo_config(model: str, data: Path, scorer: str, out: Path, **more: Any) -> PPOConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "reward": scorer, "out": str(out), "lr": 1e-3, "steps": 2,
        "batch_size": 8, "response_length": 8, "max_length": 32, "device": "cpu",
    }  # fmt: skip
    return PPOConfig(**(wanted | more))


@pytest.fixture
def scorer(tiny_model: str, rankings: Path, tmp_path: Path) -> str:
    reward.main(reward_config(tiny_model, rankings, tmp_path / "scorer"))
    return str(tmp_path / "scorer" / "model")


# --- how a batch is computed --------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_micro_batches_and_checkpointed_activations_change_nothing(
    tiny_model: str, rankings: Path, demonstrations: Path, tmp_path: Path, stage: str
) -> None:
    def train(name: str, **more: Any) -> list[dict[str, Any]]:
        out = tmp_path / name
        if stage == "sft":
            sft.main(sft_config(tiny_model, demonstrations, out, **more))
        elif stage == "reward":
            reward.main(reward_config(tiny_model, rankings, out, **more))
        else:
            common = {"lr": 1e-3, "steps": 4, "batch_size": 8, "max_length": 64, "device": "cpu"}
            settings: dict[str, Any] = common | more
            dpo.main(DPOConfig(data=str(rankings), model=tiny_model, out=str(out), **settings))
        return rows_of(out)

    whole = train("whole")
    for name, more in (("parts", {"micro_batch": 3}), ("twice", {"gradient_checkpointing": True})):
        for one, other in zip(whole, train(name, **more), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_checkpointed_activations_are_really_computed_twice(tiny_model: str) -> None:
    policy: Any = models.load_policy(tiny_model, tokens.load_tokenizer(tiny_model), CPU)
    config = sft_config(tiny_model, Path("x"), Path("x"), gradient_checkpointing=True)
    prepare_model(policy, config, ALONE)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    policy.model.layers[0].mlp.register_forward_pre_hook(count)
    lost, _ = sft.sum_losses(policy, [[([1, 4, 8], [[9, 2]])]], 0)
    lost.backward()
    assert calls == 2


@pytest.mark.slow
def test_ppo_with_checkpointed_activations_samples_and_learns_the_same(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    found = []
    for twice in (False, True):
        out = tmp_path / str(twice)
        ppo.main(ppo_config(tiny_model, rankings, scorer, out, gradient_checkpointing=twice))
        found.append(rows_of(out))
    for one, other in zip(*found, strict=True):
        for name in ("score", "kl", "policy_loss", "value_loss", "response_length"):
            assert one[name] == pytest.approx(other[name], abs=1e-5), name


def test_half_precision_computes_in_it_and_keeps_weights_and_losses_in_float32(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    seen = []
    tokenizer = tokens.load_tokenizer(tiny_model)
    model: Any = models.load_reward_model(tiny_model, tokenizer, CPU, seed=0)
    prepare_model(model, reward_config(tiny_model, rankings, tmp_path, dtype="bfloat16"), ALONE)
    model.model.layers[0].mlp.register_forward_hook(lambda *found: seen.append(found[2].dtype))
    batch = shared_prefix.build_batch([([1, 4, 8], [[9, 2]])], model, 0)
    found = responses.response_rewards(model, batch)
    assert seen == [torch.bfloat16]
    assert found.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    full = reward.main(reward_config(tiny_model, rankings, tmp_path / "full", steps=20))
    half = reward.main(
        reward_config(tiny_model, rankings, tmp_path / "half", steps=20, dtype="bfloat16")
    )
    assert half["test"]["accuracy"] == pytest.approx(full["test"]["accuracy"], abs=0.1)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_losses(
    tiny_model: str, rankings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced in full, and run without making machine code of it, which takes a minute.
    whole = torch.nn.Module.compile
    traced = []

    def compile_to_graphs(module: torch.nn.Module, **options: Any) -> None:
        traced.append(type(module).__name__)
        whole(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_to_graphs)
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    reward.main(reward_config(tiny_model, rankings, plain, steps=3))
    reward.main(reward_config(tiny_model, rankings, compiled, steps=3, compile=True))
    for one, other in zip(rows_of(plain), rows_of(compiled), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert traced == ["LlamaModel"]


# --- adapters -----------------------------------------------------------------------------------------


def test_with_its_adapters_off_a_model_is_the_one_it_started_from_bit_for_bit(
    tiny_model: str,
) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    base = models.load_policy(tiny_model, tokenizer, CPU)
    policy: Any = models.load_policy(tiny_model, tokenizer, CPU)
    lora.add_adapters(policy, rank=4, alpha=8)
    ids = torch.tensor([[1, 4, 8, 5, 9, 10]])
    with torch.no_grad():
        for _, layer in lora.adapters_of(policy):
            layer.lora_B["default"].weight.normal_(std=0.3)
        assert not torch.allclose(policy(input_ids=ids).logits, base(input_ids=ids).logits)
        with lora.adapters_off(policy):
            assert torch.equal(policy(input_ids=ids).logits, base(input_ids=ids).logits)
        adapted = policy(input_ids=ids).logits
        lora.merge_adapters(policy)
        assert torch.allclose(policy(input_ids=ids).logits, adapted, atol=1e-5)
    assert policy.state_dict().keys() == base.state_dict().keys()


def test_ppo_with_adapters_keeps_no_second_model_and_its_reference_stays(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    config = ppo_config(tiny_model, rankings, scorer, tmp_path / "run", lora_rank=4, kl_coef=0.01)
    trainer = ppo.PPOTrainer(config, ALONE)
    assert trainer.reference is None
    base = models.load_policy(tiny_model, trainer.tokenizer, CPU)
    first = trainer.update(PROMPTS * 2, 1, 3)
    assert first["kl"] == 0
    assert first["ratio"] != 1
    trainer.update(PROMPTS * 2, 2, 3)
    rollout = trainer.roll_out(PROMPTS, torch.Generator().manual_seed(0))
    micro_batches = trainer.build_micro_batches(rollout, range(len(PROMPTS)))
    prepare_model(base, config, ALONE, trainable=False, onednn=True)
    wanted = trainer.per_token(rollout, micro_batches, trainer.logprobs_of, base)
    assert torch.equal(trainer.reference_logprobs(rollout, micro_batches), wanted)
    ppo.main(config)
    trained, start = (
        models.load_policy(path, trainer.tokenizer, CPU).state_dict()
        for path in (str(tmp_path / "run" / "model"), tiny_model)
    )
    assert trained.keys() == start.keys()
    assert not torch.equal(trained["model.layers.0.mlp.up_proj.weight"],
                           start["model.layers.0.mlp.up_proj.weight"])  # fmt: skip
    assert torch.equal(trained["model.embed_tokens.weight"], start["model.embed_tokens.weight"])


def test_the_adapter_that_a_run_leaves_is_the_models_difference(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = ppo_config(tiny_model, rankings, scorer, tmp_path / "run", lora_rank=2, lora_alpha=4.0)
    ppo.main(config)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32)
    ids = torch.tensor([[1, 4, 8, 5, 9, 10]])
    with torch.no_grad():
        assert torch.allclose(
            adapted(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5
        )


# --- SFT ----------------------------------------------------------------------------------------------


def test_packed_rows_hold_the_same_examples_and_the_same_loss(
    tiny_model: str, demonstrations: Path, tmp_path: Path
) -> None:
    one = sft.main(sft_config(tiny_model, demonstrations, tmp_path / "one", lr=1e-30))
    packed = sft.main(
        sft_config(tiny_model, demonstrations, tmp_path / "packed", lr=1e-30, packing=True)
    )
    assert packed["train_examples"] == one["train_examples"]
    assert packed["rows"] < one["train_examples"] / 2
    assert packed["validation_loss"] == pytest.approx(one["validation_loss"], abs=1e-5)


def test_a_run_ends_when_validation_has_had_enough_and_keeps_the_best(
    tiny_model: str, demonstrations: Path, tmp_path: Path
) -> None:
    # A learning rate that ruins the model: the first looks are the best.
    config = {"lr": 0.5, "steps": 60, "validate_every": 2, "patience": 3}
    out = tmp_path / "early"
    result = sft.main(sft_config(tiny_model, demonstrations, out, **config))
    looked = [row for row in rows_of(out) if "validation_loss" in row]
    least = min(looked, key=lambda row: row["validation_loss"])
    assert result["steps"] == least["step"] + 6 < 60
    assert result["best_step"] == least["step"]
    assert result["validation_loss"] == pytest.approx(least["validation_loss"], abs=1e-4)
    # Resumed where it had ended, it ends there.
    again = sft.main(sft_config(tiny_model, demonstrations, out, resume=True, **config))
    assert again == result


# --- the reward model ---------------------------------------------------------------------------------


def test_label_smoothing_of_a_pair_is_both_orders_weighted() -> None:
    rewards, mask = tensor(1.0, -0.5), tensor(1, 1)
    found = losses.smoothed_plackett_luce(rewards, tensor(1, 2), mask, smoothing=0.2)
    right, wrong = (math.log1p(math.exp(-lead)) for lead in (1.5, -1.5))  # Bradley-Terry
    assert float(found) == pytest.approx(0.8 * right + 0.2 * wrong, abs=1e-6)
    # A ranking of three turned over, with a shorter one beside it in the batch.
    rewards = torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, 9.0]])
    ranks, mask = torch.tensor([[1, 2, 3], [1, 2, 4]]), torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    found = losses.smoothed_plackett_luce(rewards, ranks, mask, smoothing=0.1)
    turned = torch.tensor([[3, 2, 1], [2, 1, 4]])
    wanted = 0.9 * losses.plackett_luce(rewards, ranks, mask)
    wanted += 0.1 * losses.plackett_luce(rewards, turned, mask)
    assert torch.allclose(found, wanted)


def test_a_stronger_preference_asks_for_a_wider_lead(tiny_model: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    with file.open("w") as lines:
        for number in range(8):
            prompt, chosen, rejected = (
                [{"role": role, "content": text}]
                for role, text in (
                    ("user", f"tell me {number}"), ("assistant", "the sun"), ("assistant", "a cat"),
                )
            )  # fmt: skip
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": number % 4}
            lines.write(json.dumps(row) + "\n")
    data = read_rankings(file)
    rankings = [each for split in data.splits.values() for each in split]
    assert sorted(each.strength or 0 for each in rankings) == [0, 0, 1, 1, 2, 2, 3, 3]
    tokenizer = tokens.load_tokenizer(tiny_model)
    model = models.load_reward_model(tiny_model, tokenizer, CPU, seed=0)
    examples = [reward.encode(tokens.Encoder(tokenizer, 64), each) for each in rankings]
    config = reward_config(tiny_model, file, tmp_path / "out", margin_scale=0.5)
    margins = reward.margins_on(model, examples, 0)
    found, _ = reward.sum_losses(model, examples, 0, config)
    lead = 0.5 * torch.tensor([each.ranking.strength for each in examples])
    assert float(found.detach()) == pytest.approx(
        float(-(margins - lead).sigmoid().log().sum()), abs=1e-5
    )


def make_length_biased(file: Path, *, slope: float) -> Path:
    """Rankings in which suns are good, and length is preferred for its own sake."""
    import random

    source = random.Random(5)
    with file.open("w") as lines:
        for number in range(240):
            texts = [
                " ".join(
                    source.choice(("sun", "moon", "cat")) for _ in range(source.randint(2, 14))
                )
                for _ in range(2)
            ]
            worth = [t.count("sun") / len(t.split()) + slope * len(t.split()) for t in texts]
            one, other = (0, 1) if worth[0] > worth[1] else (1, 0)
            row = {"prompt": f"tell me {number}", "chosen": texts[one], "rejected": texts[other]}
            lines.write(json.dumps(row) + "\n")
    return file


@pytest.mark.slow
def test_length_control_leaves_length_out_of_the_reward(tiny_model: str, tmp_path: Path) -> None:
    data = make_length_biased(tmp_path / "pairs.jsonl", slope=0.08)
    found = {}
    for control in (False, True):
        out = tmp_path / str(control)
        config = reward_config(tiny_model, data, out, steps=60, length_control=control)
        found[control] = reward.main(config)
    assert found[True]["length_slope"] > 0.5
    plain, controlled = (found[each]["validation"]["length_correlation"] for each in (False, True))
    assert plain > 0.4
    assert controlled < plain - 0.3


def test_a_slope_is_that_of_a_logistic_regression() -> None:
    torch.manual_seed(0)
    values = torch.randn(4000, 2)
    chances = (1.7 * (values[:, 0] - values[:, 1])).sigmoid()
    first = torch.rand(4000) < chances
    ranks = torch.where(first[:, None], torch.tensor([1, 2]), torch.tensor([2, 1]))
    rankings = ties.Rankings(values[..., None], ranks, torch.ones(4000, 2), torch.ones(4000))
    assert float(ties.fit_linear(rankings, largest=None).slopes) == pytest.approx(1.7, abs=0.1)


def test_accuracy_by_size_uses_nested_parts_of_the_same_data(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    everything = read_rankings(rankings)["train"]  # several rankings of some of its 16 prompts
    small, half = (reward.take_share(everything, share) for share in (0.25, 0.5))
    assert len(small) == pytest.approx(len(everything) / 4, abs=6)
    assert all(any(one is other for other in half) for one in small)
    out = tmp_path / "sizes"
    config = reward_config(tiny_model, rankings, out, steps=None, epochs=1.0, sizes="0.25,0.5")
    result = reward.main(config)
    rows = result["by_size"]
    assert [row["train_rankings"] for row in rows] == [len(small), len(half), len(everything)]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert "accuracy against size" in (out / "report.html").read_text()


# --- PPO ----------------------------------------------------------------------------------------------


def test_ptx_adds_the_gradient_of_the_demonstrations_and_nothing_else(
    tiny_model: str, rankings: Path, demonstrations: Path, scorer: str, tmp_path: Path
) -> None:
    config = ppo_config(
        tiny_model, rankings, scorer, tmp_path, ptx_coef=2.0, ptx_data=str(demonstrations)
    )
    trainer = ppo.PPOTrainer(config, ALONE)
    assert trainer.ptx is not None
    trainer.optimizer.zero_grad()
    loss = trainer.add_ptx_gradients(trainer.ptx)["ptx_loss"]
    policy: Any = trainer.policy
    found = policy.model.layers[0].mlp.up_proj.weight.grad.clone()
    batch = [trainer.ptx.rows[index] for index in trainer.ptx.order(1)]
    trainer.optimizer.zero_grad()
    lost, _ = sft.sum_losses(trainer.policy, batch, 0)
    mean = lost / sum(map(sft.count_targets, batch))
    (2.0 * mean).backward()
    assert loss == pytest.approx(float(mean.detach()), abs=1e-5)
    assert torch.allclose(policy.model.layers[0].mlp.up_proj.weight.grad, found, atol=1e-6)


@pytest.mark.slow
def test_ptx_keeps_what_the_reward_alone_would_unlearn(
    tiny_model: str, rankings: Path, demonstrations: Path, scorer: str, tmp_path: Path
) -> None:
    found = []
    for number, coefficient in enumerate((0.0, 5.0)):
        out = tmp_path / str(number)
        more: dict[str, Any] = {"ptx_coef": coefficient, "steps": 8, "kl_coef": 0.0}
        if coefficient:
            more["ptx_data"] = str(demonstrations)
        ppo.main(ppo_config(tiny_model, rankings, scorer, out, **more))
        tokenizer = tokens.load_tokenizer(str(out / "model"))
        policy = capabilities.probe_capabilities(
            models.load_policy(str(out / "model"), tokenizer, CPU)
        )
        examples = sft.encode(
            tokens.Encoder(tokenizer, 64), read_demonstrations(demonstrations)["validation"]
        )
        found.append(sft.mean_loss(policy, [[each] for each in examples], 0))
    assert found[1] < found[0] - 0.3


def test_without_demonstrations_ptx_says_so(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainerError, match="holds no demonstration: messages that end"):
        ppo.PPOTrainer(ppo_config(tiny_model, rankings, scorer, tmp_path, ptx_coef=1.0), ALONE)


@pytest.mark.slow
def test_a_held_out_reward_model_is_reported_and_never_trained_against(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    reward.main(reward_config(tiny_model, rankings, tmp_path / "heldout", seed=7))
    heldout = str(tmp_path / "heldout" / "model")
    plain = ppo.main(ppo_config(tiny_model, rankings, scorer, tmp_path / "plain", steps=3))
    config = ppo_config(
        tiny_model, rankings, scorer, tmp_path / "watched", steps=3, heldout_reward=heldout
    )
    watched = ppo.main(config)
    assert watched["score"] == pytest.approx(plain["score"], abs=1e-6)
    rows = rows_of(tmp_path / "watched")
    assert all(row["heldout_score"] != row["score"] for row in rows)
    assert {"climbed_win_rate", "heldout_score", "start_heldout_score"} <= watched[
        "held_out"
    ].keys()
    assert (
        "scores: trained against, and held out"
        in (tmp_path / "watched" / "report.html").read_text()
    )


def test_an_ensemble_scores_as_its_least_or_less_its_variance() -> None:
    from trainer.rl.rewards import combine

    rewards = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert combine(rewards, "mean").tolist() == [2.0, 0.0]
    assert combine(rewards, "worst").tolist() == [1.0, 0.0]
    assert combine(rewards, "uncertain", coefficient=0.5).tolist() == [1.5, 0.0]


@pytest.mark.slow
def test_ppo_trains_against_an_ensemble_and_reports_how_far_it_differs(
    tiny_model: str, rankings: Path, scorer: str, tmp_path: Path
) -> None:
    reward.main(reward_config(tiny_model, rankings, tmp_path / "second", seed=3))
    both = f"{scorer},{tmp_path / 'second' / 'model'}"
    found = {}
    for how in ("mean", "worst"):
        config = ppo_config(tiny_model, rankings, both, tmp_path / how, ensemble=how, steps=1)
        ppo.main(config)
        found[how] = rows_of(tmp_path / how)[0]
    assert found["worst"]["score"] < found["mean"]["score"]
    assert found["mean"]["reward_uncertainty"] > 0


# --- around the run -----------------------------------------------------------------------------------


def test_a_card_goes_with_every_model(tiny_model: str, rankings: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "rankings.train.jsonl").write_text(rankings.read_text())
    (export / "rankings.test.jsonl").write_text(
        "".join(rankings.read_text().splitlines(keepends=True)[:12])
    )
    manifest = {"name": "third", "content_hash": "abc123", "guideline_version": 4}
    (export / "manifest.json").write_text(json.dumps(manifest | {"raters": {"count": 9}}))
    out = tmp_path / "run"
    result = reward.main(reward_config(tiny_model, export, out))
    card = (out / "model" / "README.md").read_text()
    description = json.loads((out / "config.json").read_text())
    assert description["data_hash"] in card
    assert "| version of the raters' guidelines | 4 |" in card
    assert "| hash of the export | abc123 |" in card
    assert f"| test.accuracy | {result['test']['accuracy']:.4g} |" in card
    assert str(tmp_path) not in card  # a card travels: it tells nothing of the machine


def test_trackers_get_what_metrics_jsonl_gets(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    reward.main(reward_config(tiny_model, rankings, out, trackers="tensorboard"))
    events = next((out / "trackers").rglob("events.*"))
    found = EventAccumulator(str(events.parent))
    found.Reload()
    told = [(each.step, each.value) for each in found.Scalars("loss")]
    assert told == [(row["step"], pytest.approx(row["loss"], abs=1e-5)) for row in rows_of(out)]


def test_a_tracker_that_is_not_there_is_refused_at_once(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--trackers"):
        reward.main(reward_config(tiny_model, rankings, tmp_path / "run", trackers="nowhere"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"dtype": "float16"}, "--dtype"),
        ({"lora_rank": -1}, "--lora-rank"),
        ({"label_smoothing": 0.5}, "--label-smoothing"),
        ({"sizes": "0.5,x"}, "--sizes"),
        ({"sizes": "0"}, "--sizes"),
        ({"patience": 0}, "--patience"),
        ({"micro_batch": 0}, "--micro-batch"),
        ({"margin_scale": -1.0}, "--margin-scale"),
    ],
)
def test_impossible_settings_are_refused_by_name(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        reward_config("model", Path("data"), Path("out"), **more)


def test_a_learner_divides_by_the_weight_of_the_whole_batch(tiny_model: str) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    policy = models.load_policy(tiny_model, tokenizer, CPU)
    config = sft_config(tiny_model, Path("x"), Path("x"), micro_batch=1)
    learner: Learner[Any, sft.Row] = Learner(
        policy, config, ALONE, lr=1e-30,
        sum_losses=lambda model, rows: sft.sum_losses(model, rows, 0),
        weight_of=sft.count_targets,
    )  # fmt: skip
    rows: list[sft.Row] = [[([1, 4, 8], [[9, 2]])], [([1, 4], [[10, 11, 12, 13, 14, 2]])]]
    wanted = float(sft.sum_losses(policy, rows, 0)[0].detach()) / 8
    assert learner.training_step(rows, lr=1e-30)["loss"] == pytest.approx(wanted, abs=1e-5)
