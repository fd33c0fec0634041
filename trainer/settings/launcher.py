"""What a launcher (torchrun, `accelerate launch`) asked of the processes that it started.

Both start them alike, and accelerate hands on what its flags and its config file say in variables. What of
that this trainer does by another name, or does not do, is refused: it would be ignored without a word.
"""

import os
from collections.abc import Mapping

from trainer.errors import UsageError

# Of FSDP as accelerate describes it, what --shard does. The other settings say how fast it goes, or how its
# own checkpoints are written.
SHARDING = {
    "FSDP_SHARDING_STRATEGY": ("full_shard", "1"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "full_shard"),
    "FSDP_OFFLOAD_PARAMS": ("false",),
    "FSDP_AUTO_WRAP_POLICY": ("transformer_based_wrap",),
    "FSDP_FORWARD_PREFETCH": ("false",),
    "FSDP_BACKWARD_PREFETCH": ("backward_pre",),
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": ("false",),
    "FSDP_IGNORED_MODULES": (),
}
# Whole ways to train that are none of ours.
OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def refuse_launcher_settings(config: object) -> int:
    """How many processes the launcher started, if it asked for nothing that these settings do not do.

    Raises UsageError, naming its setting and ours, where it did.
    """
    asked = {name: value.strip().lower() for name, value in os.environ.items() if value.strip()}
    for name, what in OTHERS.items():
        if asked.get(name) == "true":
            raise UsageError(f"the launcher asks for {what}, and this trainer has --shard alone")
    _refuse_precision(asked, config)
    if asked.get("ACCELERATE_DYNAMO_BACKEND", "no") not in ("no", "none"):
        raise UsageError(
            f"the launcher's dynamo_backend {asked['ACCELERATE_DYNAMO_BACKEND']} is not carried out: "
            "start with `no`, and say --compile"
        )
    if asked.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise UsageError(
            "the launcher's gradient_accumulation_steps is not carried out: --batch-size is the whole "
            "batch, and --micro-batch what goes through the model at once"
        )
    if asked.get("ACCELERATE_USE_CPU") == "true" and getattr(config, "device", "cpu") != "cpu":
        raise UsageError("the launcher's --cpu is not carried out: say --device cpu")
    if asked.get("ACCELERATE_USE_FSDP") == "true":
        _refuse_sharding(asked, config)
    return _count_processes(asked)


def _refuse_precision(asked: Mapping[str, str], config: object) -> None:
    """Mixed precision is --dtype; the same said twice is no contradiction."""
    precision = asked.get("ACCELERATE_MIXED_PRECISION", "no")
    same = precision == "bf16" and getattr(config, "dtype", None) == "bfloat16"
    if precision != "no" and not same:
        ours = (
            "say --dtype bfloat16" if precision == "bf16" else "--dtype bfloat16 is what there is"
        )
        raise UsageError(f"the launcher's mixed_precision {precision} is not carried out: {ours}")


def _refuse_sharding(asked: Mapping[str, str], config: object) -> None:
    """What FSDP is to do otherwise than --shard does it."""
    for name, done in SHARDING.items():
        if asked.get(name, "none") not in (*done, "none"):
            raise UsageError(
                f"the launcher's {name.lower()} {asked[name]} is not carried out: --shard divides whole "
                "layers, and keeps their weights on the device"
            )
    twice = asked.get("FSDP_ACTIVATION_CHECKPOINTING") == "true"
    if twice and not getattr(config, "gradient_checkpointing", False):
        raise UsageError(
            "the launcher's fsdp_activation_checkpointing is not carried out: say "
            "--gradient-checkpointing"
        )


def _count_processes(asked: Mapping[str, str]) -> int:
    """WORLD_SIZE, which torchrun and accelerate set; other ways to start several are refused."""
    count = asked.get("WORLD_SIZE", "1")
    if not count.isdecimal() or (int(count) > 1 and not {"RANK", "LOCAL_RANK"} <= asked.keys()):
        raise UsageError(
            f"WORLD_SIZE is {count!r}, and no launcher gave this process its RANK and LOCAL_RANK"
        )
    several = any(asked.get(name, "1") != "1" for name in MPI_SIZES)
    # accelerate gives these to processes that it means to start several of, and then starts one alone.
    forgotten = {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= asked.keys()
    if "WORLD_SIZE" not in asked and (several or forgotten):
        raise UsageError(
            "several processes were asked for, and none of them knows of the others: start them with "
            "torchrun or `accelerate launch --multi_gpu`"
        )
    return int(count)
