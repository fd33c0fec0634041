"""What `accelerate launch` asks for and the trainer does not do is refused before anything is loaded.

The variables are those that accelerate itself sets for its flags.
"""

import os
import subprocess
import sys

import pytest

from tests.trainer.processes import CHECKOUT, make_run

WORDS = ["sft", "--data", "d", "--model", "m", "--out", "o", "--dry-run"]


def variables(*flags: str) -> dict[str, str]:
    """What accelerate's launcher adds to the environment of the processes that it starts."""
    from accelerate.commands import launch
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    several = [] if {"--cpu", "--use_deepspeed", "--use_fsdp"} & {*flags} else ["--multi_gpu"]
    asked = [*several, "--num_machines", "1", "--num_processes", "2", *flags]
    parsed = launch.launch_command_parser().parse_args([*asked, "train.py"])
    parsed, _, _ = launch._validate_launch_command(parsed)
    if "--use_deepspeed" in flags:
        parsed.deepspeed_fields_from_accelerate_config = ""
        _, found = prepare_deepspeed_cmd_env(parsed)
    elif "--cpu" in flags:
        _, found = prepare_simple_launcher_cmd_env(parsed)
    else:
        found = prepare_multi_gpu_env(parsed)
    started = {} if "--cpu" in flags else {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    return {name: value for name, value in found.items() if name not in os.environ} | started


REFUSED = [
    (["--mixed_precision", "fp16"], "mixed_precision fp16 is not carried out"),
    (["--mixed_precision", "bf16"], "say --dtype bfloat16"),
    (["--dynamo_backend", "inductor"], "say --compile"),
    (["--use_deepspeed", "--zero_stage", "3"], "asks for DeepSpeed"),
    (["--use_deepspeed", "--offload_optimizer_device", "cpu"], "asks for DeepSpeed"),
    (["--use_megatron_lm"], "asks for Megatron-LM"),
    (["--use_fsdp", "--use_parallelism_config"], "asks for a parallelism_config"),
    (["--use_fsdp", "--fsdp_offload_params", "true"], "fsdp_offload_params true"),
    (["--use_fsdp", "--fsdp_sharding_strategy", "HYBRID_SHARD"], "fsdp_sharding_strategy hybrid"),
    (["--use_fsdp", "--fsdp_reshard_after_forward", "false"], "fsdp_reshard_after_forward false"),
    (["--use_fsdp", "--fsdp_auto_wrap_policy", "SIZE_BASED_WRAP"], "fsdp_auto_wrap_policy size"),
    (["--use_fsdp", "--fsdp_activation_checkpointing", "true"], "say --gradient-checkpointing"),
    (["--cpu"], "say --device cpu"),
]


@pytest.mark.parametrize(
    ("flags", "said"), REFUSED, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_a_setting_that_is_not_carried_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], said: str
) -> None:
    for name, value in variables(*flags).items():
        monkeypatch.setenv(name, value)
    reply = make_run(WORDS)
    assert reply.code == 2
    (line,) = reply.err.splitlines()
    assert said in line
    assert not reply.out
    # What is the same for all processes of a machine is said by one of them.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert make_run(WORDS) == (2, "", "")


@pytest.mark.parametrize(
    ("flags", "ours"),
    [
        ([], []),
        (["--mixed_precision", "no"], []),
        (["--mixed_precision", "bf16"], ["--dtype", "bfloat16"]),
        (["--use_fsdp"], []),
        (
            ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy",
             "TRANSFORMER_BASED_WRAP", "--fsdp_state_dict_type", "FULL_STATE_DICT",
             "--fsdp_backward_prefetch", "BACKWARD_PRE"],
            [],
        ),
        (["--use_fsdp", "--fsdp_activation_checkpointing", "true"], ["--gradient-checkpointing"]),
    ],
)  # fmt: skip
def test_what_is_carried_out_is_let_through(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], ours: list[str]
) -> None:
    for name, value in variables(*flags).items():
        monkeypatch.setenv(name, value)
    assert make_run([*WORDS, *ours]).code == 0


def test_processes_that_do_not_know_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # accelerate means to start two, says so nowhere, and starts one.
    for name, value in variables("--cpu").items():
        monkeypatch.setenv(name, value)
    assert "start them with torchrun" in make_run([*WORDS, "--device", "cpu"]).err
    monkeypatch.delenv("MASTER_PORT")
    assert make_run([*WORDS, "--device", "cpu"]).code == 0
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert "start them with torchrun" in make_run([*WORDS, "--device", "cpu"]).err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK and LOCAL_RANK" in make_run([*WORDS, "--device", "cpu"]).err


def test_what_is_one_processs_work_is_not_done_by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    reply = make_run(["evaluate", "--reward", "r", "--data", "d"])
    assert reply.code == 2
    assert "evaluate is one process's work" in reply.err


def test_settings_are_refused_without_loading_torch() -> None:
    code = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *WORDS], cwd=CHECKOUT, capture_output=True, text=True,
        check=False, env=os.environ | {"ACCELERATE_USE_DEEPSPEED": "true"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
