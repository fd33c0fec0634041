"""Every flag of SFT, the reward model, DPO, evaluate and compare changes what it should, and nothing else.

Two short runs that differ in one flag are looked at from outside: what they wrote. That what changes
changes rightly is shown by test_supervised_steps.py and test_evaluate_figures.py. A flag that is new fails
the first test here until it has an entry.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.collected import write_export
from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import make_policy
from tests.trainer.flags import Effect, Elsewhere, Seen, alike, changed, check_table, effect
from trainer import compare, dpo, evaluate, reward, sft
from trainer.settings.compare import CompareConfig
from trainer.settings.dpo import DPOConfig
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

Table = dict[str, Effect | Elsewhere]
Make = Callable[..., Seen]

# What comes of other batches or another objective. (Before anything is learnt DPO's loss is ln 2 whatever
# the batch; only the reward model has a mean.)
LEARNT = ("first_loss", "first_norm", "weights", "mean", "figures")
LATER = ("weights", "mean", "figures")
LENGTH = ("steps", "rates", "looks", "kept")

TRAINING: Table = {
    "data": effect("{other}/export", *LEARNT, "data"),
    "model": effect("{other}/model", *LEARNT),
    "out": effect("{tmp}/elsewhere"),
    "steps": effect(3, *LENGTH, *LATER),
    "epochs": effect(1.0, *LENGTH, *LATER),
    "batch_size": effect(3, *LEARNT, *LENGTH),
    "lr": effect(2e-3, "rates", *LATER),
    "adam_eps": effect(1e-2, *LATER),
    "max_length": effect(18, *LEARNT, "cut", "keys"),
    "seed": effect(1, *LEARNT),
    "device": effect("auto"),  # on a machine without a GPU
    "resume": effect(True),  # where there is nothing to go on from
    "checkpoint_every": effect(2, "kept"),
    "dtype": effect("bfloat16", *LEARNT),
    "gradient_checkpointing": effect(True),
    "lora_rank": effect(2, "first_norm", "moved", *LATER),
    "lora_alpha": effect(16.0, "first_norm", *LATER, lora_rank=2),
    "shard": effect(True),  # among one process
    "trackers": effect("tensorboard", "files"),
    "weight_decay": effect(0.9, *LATER),
    "max_grad_norm": effect(0.01, *LATER),
    "validate_every": effect(2, "looks"),
    "patience": effect(50, "keys", lr=1e-30),  # or the best weights would not be the last
    "micro_batch": effect(3),
    "compile": Elsewhere(
        "tests/trainer/test_options.py::test_a_compiled_model_gives_the_same_losses"
    ),
}
OF_STAGE: dict[str, Table] = {
    "sft": {"packing": effect(True, *LEARNT, *LENGTH, "keys")},
    "reward": {
        # The ties' parameters have a rate of their own.
        "patience": effect(50, "keys", lr=1e-30, ties="breslow"),
        "max_mean_examples": effect(2, "mean"),
        "label_smoothing": effect(0.2, *LEARNT),
        "margin_scale": effect(0.5, *LEARNT, ties="breslow"),
        "ties": effect("breslow", *LEARNT),
        "tie_lr": effect(1.0, *LATER),
        "length_control": effect(True, *LEARNT, "keys"),
        "sizes": effect("0.5", "files", "keys"),
        "train_share": effect(0.5, "count", *LEARNT, *LENGTH),
    },
    "dpo": {
        "loss": effect("ipo", *LEARNT),
        "beta": effect(0.5, "first_norm", *LATER),
        "label_smoothing": effect(0.2, "first_norm", *LATER),
        "reference": effect("{other}/model", *LEARNT),
    },
}
STAGES: dict[str, tuple[Any, type]] = {
    "sft": (sft, SFTConfig),
    "reward": (reward, RewardConfig),
    "dpo": (dpo, DPOConfig),
}
TABLES = {stage: TRAINING | own for stage, own in OF_STAGE.items()}
CASES = [
    pytest.param(stage, flag, id=f"{stage}-{flag}")
    for stage, table in TABLES.items()
    for flag, entry in table.items()
    if isinstance(entry, Effect)
]
# Of a reward model, or of a policy. Win rates follow from both policies' rewards.
OWN, BOTH = ("own", "kl"), ("own", "kl", "start")
POLICY = {"policy": "{base}/model", "against": "{other}/model", "data": "{base}/export"}
EVALUATE: Table = {
    "data": effect("{other}/export", "figures"),
    "reward": effect("{other}/scorer", "figures"),
    "policy": effect("{other}/model", *OWN, **POLICY),
    "against": effect("{base}/model", "start", "kl", **POLICY),
    "best_of": effect(4, *OWN, "best_of", "best_of_kl", **POLICY),
    "choose_by": effect(
        "{other}/scorer", "own", best_of=8, **POLICY
    ),  # KL is of all that was drawn
    "out": effect("{tmp}/figures.json"),
    "max_length": effect(14, *BOTH, **POLICY),
    "response_length": effect(3, *BOTH, **POLICY),
    "temperature": effect(0.0, *BOTH, **POLICY),
    "batch_size": effect(1, temperature=0.0, **POLICY),
    "seed": effect(1, *BOTH, **POLICY),
    "device": effect("auto", **POLICY),
}
COMPARE: Table = {
    "data": effect("{other}/export", *BOTH, "runs"),
    "model": effect("{other}/model", *BOTH, "runs"),
    "out": effect("{tmp}/elsewhere"),
    "prompts": effect("{other}/export", *BOTH),
    "reward": effect(None, "own", "start", "reward", "runs"),  # one is fitted
    "judge": effect("{other}/scorer", "own", "start"),
    "methods": effect("sft", *OWN, "method", "kl_price", "runs"),
    "kl_scales": effect("30", *OWN, "kl_price", "runs"),
    "best_of": effect(3, *OWN, "method", methods="best-of-n"),
    "settings": effect("{other}/stages.toml", *OWN, "runs"),
    "max_length": effect(18, *BOTH, "runs"),
    "response_length": effect(3, *BOTH),
    "seed": effect(1, *BOTH, "runs"),
    "device": effect("auto", "runs"),
}


@pytest.fixture(scope="module", autouse=True)
def _without_drawings(module_patch: pytest.MonkeyPatch) -> None:
    """Plots are most of a short run's time."""
    module_patch.setattr("trainer.run.plots._svg", lambda _: "<svg></svg>")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of everything: an export, a policy, a reward model, settings of stages."""
    shelf = tmp_path_factory.mktemp("shelf")
    for seed, name in enumerate(("base", "other")):
        folder = shelf / name
        write_export(folder / "export", seed=seed)
        policy = make_policy("Llama")
        with torch.no_grad():
            for each in policy.parameters():
                each.add_(torch.randn_like(each), alpha=0.05 * seed)
        policy.save_pretrained(folder / "model")
        make_tokenizer().save_pretrained(folder / "model")
        run = train("reward", shelf, folder / "run", seed=seed, steps=2)
        shutil.move(folder / "run" / "model", folder / "scorer")
        assert run["count"] == {"train_rankings": 9, "validation": 6, "test": 10}
        (folder / "stages.toml").write_text(
            f"[dpo]\nsteps = {2 + seed}\nlr = 1e-2\n[sft]\nsteps = 1\n"
        )
    return shelf


def settings(given: Mapping[str, Any], shelf: Path, tmp: Path) -> dict[str, Any]:
    """With the places filled in."""
    places = {"base": shelf / "base", "other": shelf / "other", "tmp": tmp}
    return {
        name: value.format(**places) if isinstance(value, str) else value
        for name, value in given.items()
    }


def train(stage: str, shelf: Path, place: Path, **more: Any) -> Seen:
    """What a run of a training stage shows."""
    from safetensors.torch import load_file

    base = {
        "data": "{base}/export", "model": "{base}/model", "out": str(place), "lr": 1e-3, "epochs": 2.0,
        "batch_size": 4, "max_length": 64, "device": "cpu",
    }  # fmt: skip
    module, kind = STAGES[stage]
    config = kind(**settings(base | more, shelf, place.parent))
    result = module.main(config)
    folder = Path(config.out)
    assert result == json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    start = load_file(Path(config.model) / "model.safetensors")
    weights = load_file(folder / "model" / "model.safetensors")
    description = json.loads((folder / "config.json").read_text())
    figures = {name: result[name] for name in ("train_loss", "validation_loss", "validation", "test")
               if name in result}  # fmt: skip
    return {
        "first_loss": rows[0]["loss"], "first_norm": rows[0]["grad_norm"],
        "rates": [row["lr"] for row in rows], "steps": len(rows),
        "looks": [row["step"] for row in rows if any(name.startswith("validation") for name in row)],
        "kept": sorted(each.name for each in (folder / "checkpoints").iterdir()),
        "weights": weights,
        "moved": {name for name, each in weights.items()
                  if name in start and not torch.equal(each, start[name])},
        "files": sorted(each.name for each in folder.iterdir()), "keys": set(result),
        "count": counts_of(result),
        "mean": result.get("reward_mean"), "cut": result["left_out"], "data": description["data_hash"],
        "figures": figures,
    }  # fmt: skip


def counts_of(result: Mapping[str, Any]) -> dict[str, int]:
    """How many examples were trained on, and pairs measured on."""
    trained = {name: each for name, each in result.items() if name.startswith("train_")}
    trained.pop("train_loss", None)
    splits = {
        name: each["pairs"]
        for name, each in result.items()
        if isinstance(each, dict) and "pairs" in each
    }
    return trained | splits


@pytest.fixture(scope="module")
def base_runs(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A run without the flag, made once for all flags that need no other."""
    known: dict[tuple[str, str], Seen] = {}

    def run(stage: str, **beside: Any) -> Seen:
        key = (stage, repr(sorted(beside.items())))
        if key not in known:
            known[key] = MAKE[stage](shelf, tmp_path_factory.mktemp(stage) / "run", **beside)
        return known[key]

    return run


def measure(shelf: Path, place: Path, **more: Any) -> Seen:
    """The figures of an evaluation."""
    base: dict[str, Any] = {
        "reward": "{base}/scorer", "data": "{base}/export", "max_length": 64, "response_length": 6,
        "batch_size": 2, "device": "cpu",
    }  # fmt: skip
    config = EvaluateConfig(**settings(base | more, shelf, place.parent))
    figures = evaluate.main(config)
    if config.out:
        assert json.loads(Path(config.out).read_text()) == figures
    if config.policy is None:
        return {"figures": figures}
    return told(figures)


def told(figures: Mapping[str, Any]) -> Seen:
    """What is said of a policy."""
    names = ("kl", "best_of", "best_of_kl", "method", "kl_price")
    return {
        "own": [figures["reward_mean"], figures["response_length"]],
        "start": figures["against_reward_mean"],
        **{name: figures[name] for name in names if name in figures},
    }


def beside(shelf: Path, place: Path, **more: Any) -> Seen:
    """The only row of a comparison, and what the runs in it were asked for."""
    base: dict[str, Any] = {
        "reward": "{base}/scorer", "data": "{base}/export", "model": "{base}/model", "out": str(place),
        "methods": "dpo", "settings": "{base}/stages.toml", "max_length": 64, "response_length": 6,
        "device": "cpu",
    }  # fmt: skip
    config = CompareConfig(**settings(base | more, shelf, place.parent))
    result = compare.main(config)
    (row,) = result["methods"]
    runs = {}
    for file in Path(config.out).glob("*/config.json"):
        asked = json.loads(file.read_text())["config"]
        runs[file.parent.name] = {name: asked[name] for name in asked if name != "out"}
    return {**told(row), "runs": runs, "reward": result["reward"]}


MAKE: dict[str, Make] = {
    **{stage: partial(train, stage) for stage in STAGES},
    "evaluate": measure,
    "compare": beside,
}


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        *[(kind, TABLES[stage]) for stage, (_, kind) in STAGES.items()],
        (EvaluateConfig, EVALUATE),
        (CompareConfig, COMPARE),
    ],
)
def test_every_flag_has_an_entry(kind: type, table: Table) -> None:
    check_table(kind, table)


def check(
    stage: str, flag: str, table: Table, base_runs: Make, shelf: Path, tmp_path: Path
) -> None:
    """The flag changes what its entry says."""
    entry = table[flag]
    assert isinstance(entry, Effect)
    if flag == "device" and torch.cuda.is_available():
        pytest.skip("here auto is the GPU")
    without = base_runs(stage, **entry.beside)
    with_flag = MAKE[stage](shelf, tmp_path / "run", **{**entry.beside, flag: entry.value})
    wanted = set(entry.changes)
    if stage == "dpo" and flag not in OF_STAGE["dpo"]:
        wanted -= {"first_loss"}
    if stage in STAGES and stage != "reward":
        wanted -= {"mean"}
    assert changed(without, with_flag) == wanted


@pytest.mark.parametrize(("stage", "flag"), CASES)
def test_a_stages_flag_changes_what_it_should_and_nothing_else(
    stage: str, flag: str, base_runs: Make, shelf: Path, tmp_path: Path
) -> None:
    check(stage, flag, TABLES[stage], base_runs, shelf, tmp_path)


@pytest.mark.parametrize("flag", EVALUATE)
def test_a_flag_of_evaluate_changes_what_it_should_and_nothing_else(
    flag: str, base_runs: Make, shelf: Path, tmp_path: Path
) -> None:
    check("evaluate", flag, EVALUATE, base_runs, shelf, tmp_path)


@pytest.mark.parametrize("flag", COMPARE)
def test_a_flag_of_compare_changes_what_it_should_and_nothing_else(
    flag: str, base_runs: Make, shelf: Path, tmp_path: Path
) -> None:
    check("compare", flag, COMPARE, base_runs, shelf, tmp_path)


def test_best_of_n_is_chosen_by_the_reward_model_and_judged_by_another(
    shelf: Path, tmp_path: Path
) -> None:
    """Or the judge would be climbed: what it chooses, it likes."""
    row = beside(shelf, tmp_path / "run", methods="best-of-n", best_of=4, judge="{other}/scorer")
    asked = {"policy": "{base}/model", "against": "{base}/model", "best_of": 4, "seed": 1}
    places = {"reward": "{other}/scorer", "choose_by": "{base}/scorer"}
    wanted = measure(shelf, tmp_path / "alone", batch_size=64, **asked, **places)
    assert alike([row["own"], row["start"]], [wanted["own"], wanted["start"]])


def test_what_differs_is_seen() -> None:
    """The tests above would pass where everything looks alike."""
    assert alike([1.0, {"a": torch.ones(2)}], [1.0 + 1e-9, {"a": torch.ones(2)}])
    assert not alike([1.0], [1.001])
    assert not alike({"a": 1}, {"a": 1, "b": None})
    assert changed({"a": torch.ones(2)}, {"a": torch.zeros(2), "b": 1}) == {"a", "b"}
