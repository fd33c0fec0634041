"""Every flag of PPO and RLOO changes what it is for, and nothing else.

An update is looked at from its prompts to the moved models. For each flag the table says at which of these
an update with another value differs; at all others it must not. What only a whole run can show has tests
of its own, which the table names.
"""

import ast
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.rl.conftest import Models, keep_calls
from tests.trainer.rl.plain import rows_in
from trainer.data.examples import Messages
from trainer.engine.distributed import Processes
from trainer.engine.responses import response_logits, response_values
from trainer.engine.shared_prefix import build_batch
from trainer.ppo import PPOTrainer
from trainer.rl.trainer import OnPolicyTrainer
from trainer.rloo import RLOOTrainer
from trainer.settings.ppo import PPOConfig
from trainer.settings.rloo import RLOOConfig

CHECKOUT = Path(__file__).resolve().parents[3]
ALONE = Processes(torch.device("cpu"))
WORDS = (
    "tell me",
    "a dog ran on the hill",
    "story",
    "yes please",
    "the moon",
    "no ! no !",
    "cat",
    "sun",
)
PROMPTS: list[Messages] = [[{"role": "user", "content": text}] for text in WORDS]

# What is looked at, in the order in which an update comes to it.
VALUED = {"values", "advantages", "returns"}
MOVED = {"policy", "value model", "loss"}
LEARNT = {"advantages", "returns"} | MOVED
SAMPLED = {"responses", "log-probabilities", "reference", "score", "penalised"} | VALUED | MOVED


@dataclass
class Case:
    """Two settings of a flag, what differs then, and what may."""

    changed: dict[str, Any]
    differs: set[str]
    base: dict[str, Any] = field(default_factory=dict)
    may_differ: set[str] = field(default_factory=set)


RUN = "tests/trainer/rl/test_run.py::"
Entry = Case | str


def both(models: Models) -> str:
    return f"{models.reward},{models.other_reward}"


def common_table(models: Models) -> dict[str, Entry]:
    """The flags that both stages have: a case, or the test of a whole run."""
    return {
        "data": f"{RUN}test_a_run_trains_on_the_training_prompts_of_its_data_and_on_no_others",
        "out": f"{RUN}test_a_run_trains_on_the_training_prompts_of_its_data_and_on_no_others",
        "steps": f"{RUN}test_a_run_makes_as_many_steps_as_it_is_told_or_as_its_epochs_come_to",
        "epochs": f"{RUN}test_a_run_makes_as_many_steps_as_it_is_told_or_as_its_epochs_come_to",
        "batch_size": f"{RUN}test_a_run_trains_on_the_training_prompts_of_its_data_and_on_no_others",
        "kl_stop": f"{RUN}test_a_run_ends_where_its_kl_passes_what_was_allowed",
        "checkpoint_every": f"{RUN}test_checkpoints_are_as_far_apart_as_asked",
        "resume": f"{RUN}test_a_resumed_run_goes_on_with_the_price_of_kl_that_it_had_come_to",
        "trackers": "tests/trainer/test_options.py::test_trackers_get_what_metrics_jsonl_gets",
        "device": f"{RUN}test_a_device_that_is_not_there_is_refused",
        "shard": "tests/trainer/engine/test_distributed.py::"
        "test_every_combination_works_as_one_process_or_is_refused_at_the_start",
        "rollout_server": "tests/trainer/rl/test_vllm_client.py::"
        "test_the_server_speaks_with_the_policy_as_it_is_after_every_update",
        "model": Case({"model": models.reference}, SAMPLED),
        "reward": Case({"reward": models.other_reward}, {"score", "penalised", "values"} | LEARNT),
        "ensemble": Case(
            {"ensemble": "worst"}, {"score", "penalised"} | LEARNT, {"reward": both(models)}
        ),
        "uncertainty_coef": Case(
            {"uncertainty_coef": 0.7},
            {"score", "penalised"} | LEARNT,
            {"reward": both(models), "ensemble": "uncertain"},
        ),
        "heldout_reward": Case({"heldout_reward": models.other_reward}, {"held-out score"}),
        "reference": Case({"reference": None}, {"reference"} | LEARNT),
        "kl_coef": Case({"kl_coef": 0.9}, {"coefficient"} | LEARNT),
        "kl_target": Case({"kl_target": 1.0}, {"coefficient"}, {"kl_horizon": 50.0}),
        "kl_horizon": Case({"kl_horizon": 50.0}, {"coefficient"}, {"kl_target": 1.0}),
        "response_length": Case({"response_length": 3}, SAMPLED),
        "temperature": Case({"temperature": 1.0}, SAMPLED),
        "micro_batch": Case({"micro_batch": 2}, set()),
        "max_grad_norm": Case({"max_grad_norm": 1e-6}, MOVED),
        "missing_eos_penalty": Case({"missing_eos_penalty": 0.0}, {"penalised"} | LEARNT),
        "normalise_rewards": "tests/trainer/rl/test_scale.py::"
        "test_it_can_be_switched_off_and_is_taken_up_exactly_where_a_run_goes_on",
        "adam_eps": Case({"adam_eps": 1e-2}, MOVED),
        "lr": Case({"lr": 1e-3}, {"rate"} | MOVED),
        "max_length": Case({"max_length": 11}, {"prompts"} | SAMPLED),
        "seed": Case({"seed": 2}, SAMPLED),
        "dtype": Case(
            {"dtype": "bfloat16"},
            {"log-probabilities", "score", "penalised", "values"} | LEARNT,
            may_differ={"responses", "reference"},
        ),
        "gradient_checkpointing": Case({"gradient_checkpointing": True}, set()),
        "lora_rank": Case({"lora_rank": 2}, MOVED, {"reference": None}, {"loss"}),
        "lora_alpha": Case({"lora_alpha": 16.0}, MOVED, {"reference": None, "lora_rank": 2}),
    }


def ppo_table(models: Models, other_data: str) -> dict[str, Entry]:
    """PPO's own."""
    ptx = {"policy", "loss", "demonstrations"}
    return common_table(models) | {
        "minibatches": Case({"minibatches": 4}, MOVED),
        "ppo_epochs": Case({"ppo_epochs": 1}, MOVED),
        "gamma": Case({"gamma": 0.5}, LEARNT),
        "lam": Case({"lam": 0.3}, LEARNT),
        "clip": Case({"clip": 0.01}, {"policy", "loss"}),
        "value_clip": Case({"value_clip": 0.01}, {"value model", "loss"}),
        "value_coef": Case({"value_coef": 0.7}, {"loss"}),
        "value_lr": Case({"value_lr": 1e-3}, {"value model", "loss"}),
        "whiten_rewards": Case({"whiten_rewards": False}, LEARNT),
        "ptx_coef": Case({"ptx_coef": 0.0}, ptx, {"ptx_coef": 2.0}),
        "ptx_data": Case({"ptx_data": other_data}, ptx, {"ptx_coef": 2.0}),
    }


def rloo_table(models: Models) -> dict[str, Entry]:
    """RLOO's own."""
    return common_table(models) | {"responses": Case({"responses": 2}, {"prompts"} | SAMPLED)}


def settings(models: Models, data: str, **more: Any) -> dict[str, Any]:
    """A small update in which everything counts."""
    return {
        "data": data, "out": "unused", "device": "cpu", "model": models.policy,
        "reference": models.reference, "reward": models.reward, "lr": 3e-3, "temperature": 0.7,
        "kl_coef": 0.4, "missing_eos_penalty": 1.7, "response_length": 6, "max_length": 24,
        "batch_size": 8, "seed": 1,
    } | more  # fmt: skip


def look_at(trainer: OnPolicyTrainer[Any], prompts: Sequence[Messages]) -> dict[str, Any]:
    """An update of a run, from its prompts to what it moved."""
    steps = ("roll_out", "score", "with_eos_penalty", "policy_logprobs", "reference_logprobs")
    own = ("collect",) if isinstance(trainer, PPOTrainer) else ("update_policy",)
    kept = keep_calls(trainer, *steps, *own)
    figures = trainer.update(prompts, 1, 4)
    rows = rows_in(kept["roll_out"][0])
    seen: dict[str, Any] = {
        "prompts": [prompt for prompt, _ in rows],
        "responses": [response for _, response in rows],
        "log-probabilities": kept["policy_logprobs"][0],
        "reference": kept["reference_logprobs"][0],
        "score": kept["score"][0][0],
        "penalised": kept["with_eos_penalty"][0],
        "coefficient": torch.tensor([figures["kl_coef"], trainer.kl_coef]),
        "rate": torch.tensor(figures["lr"]),
        "held-out score": torch.tensor(figures.get("heldout_score", 0.0)),
        "demonstrations": torch.tensor(figures.get("ptx_loss", 0.0)),
    }
    text = build_batch([([1, 4, 8, 9, 5], [[10, 11, 12, 13, 2]])], trainer.policy, 0)
    with torch.no_grad():
        seen["policy"] = response_logits(trainer.policy, text)
        if isinstance(trainer, PPOTrainer):
            experience = kept["collect"][0]
            for name in ("values", "advantages", "returns"):
                seen[name] = getattr(experience, name)
            seen["loss"] = torch.tensor(figures["loss"])
            seen["value model"] = response_values(trainer.value_model, text)
        else:
            seen["advantages"] = kept["update_policy"][2]
    return seen


def distance(one: Any, other: Any) -> float:
    """How far two things are from each other: infinitely, where they are not of one kind."""
    if isinstance(one, Tensor) and one.shape == other.shape:
        return float((one - other).abs().max())
    return 0.0 if not isinstance(one, Tensor) and one == other else float("inf")


def assert_differ(one: dict[str, Any], other: dict[str, Any], case: Case) -> None:
    """Clearly where the case says so; elsewhere not at all, but for rounding."""
    far = {name: distance(one[name], other[name]) for name in one}
    found = {name for name, away in far.items() if away > 1e-3} - case.may_differ
    assert found == case.differs & one.keys() - case.may_differ, far
    assert all(far[name] < 1e-4 for name in far.keys() - found - case.may_differ), far


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files of them."""
    files = []
    for number, said in enumerate(("the cat sat .", "a fox ran")):
        turns = [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": said}]
        file = tmp_path_factory.mktemp("data") / f"{number}.train.jsonl"
        file.write_text((json.dumps({"messages": turns}) + "\n") * 8)
        files.append(str(file))
    return files


Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(models_of: Callable[[str], Models], demonstrations: list[str]) -> Look:
    """An update with these settings; what was looked at once is remembered."""
    models = models_of("Llama")
    known: dict[str, dict[str, Any]] = {}

    def find(stage: str, **more: Any) -> dict[str, Any]:
        key = f"{stage} {sorted(more.items())}"
        if key not in known:
            given = settings(models, demonstrations[0], **more)
            if stage == "ppo":
                wanted = {"ppo_epochs": 2, "minibatches": 2} | given
                known[key] = look_at(PPOTrainer(PPOConfig(**wanted), ALONE), PROMPTS)
            else:
                config = RLOOConfig(**given)
                prompts = PROMPTS[: config.batch_size // config.responses]
                known[key] = look_at(RLOOTrainer(config, ALONE), prompts)
        return known[key]

    return find


def assert_flag(flag: str, stage: str, table: dict[str, Entry], look: Look) -> None:
    """It does what the table says, or the test that the table names is there."""
    assert flag in table, f"{flag} is new: what does it change?"
    entry = table[flag]
    if isinstance(entry, Case):
        assert_differ(look(stage, **entry.base), look(stage, **entry.base | entry.changed), entry)
    else:
        file, _, name = entry.partition("::")
        tree = ast.parse((CHECKOUT / file).read_text())
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}


def names_of(kind: type) -> list[str]:
    return [each.name for each in dataclasses.fields(kind)]


@pytest.mark.parametrize("flag", names_of(PPOConfig))
def test_a_flag_of_ppo_changes_what_it_is_for_and_nothing_else(
    flag: str, look: Look, models_of: Callable[[str], Models], demonstrations: list[str]
) -> None:
    assert_flag(flag, "ppo", ppo_table(models_of("Llama"), demonstrations[1]), look)


@pytest.mark.parametrize("flag", names_of(RLOOConfig))
def test_a_flag_of_rloo_changes_what_it_is_for_and_nothing_else(
    flag: str, look: Look, models_of: Callable[[str], Models]
) -> None:
    assert_flag(flag, "rloo", rloo_table(models_of("Llama")), look)
