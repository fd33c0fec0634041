"""Low-rank adapters (Hu et al. 2021): train a few numbers, and switch them off to have the start again.

The adapters are put into the model's own linear layers, so that everything else sees the model that it
knows. With them off the model is, bit for bit, the one that it started from: PPO and RLOO use it as their
reference, and keep no second copy.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.engine.distributed import whole
from trainer.engine.protocols import Model, Module
from trainer.errors import TrainerError


def add_adapters(model: Model, *, rank: int, alpha: float) -> None:
    """Put adapters into every linear layer but the heads; nothing else of the trunk moves.

    The output of an adapter is scaled by alpha / rank. A scalar head stays trainable as a whole.
    """
    from peft import LoraConfig, inject_adapter_in_model

    scale: Any = alpha  # peft's hint says int; it divides
    config = LoraConfig(r=rank, lora_alpha=scale, lora_dropout=0.0, target_modules="all-linear")
    module: Any = model  # a torch module, whatever else it is
    try:
        inject_adapter_in_model(config, module)
    except ValueError as error:
        raise TrainerError(f"--lora-rank: this model takes no adapters: {error}") from None
    head = getattr(model, "score", None)
    if isinstance(head, nn.Module):
        head.requires_grad_(True)


def adapters_of(model: Module) -> list[tuple[str, Any]]:
    """The layers that have adapters, by name."""
    from peft.tuners.lora import LoraLayer

    return [(name, each) for name, each in model.named_modules() if isinstance(each, LoraLayer)]


@contextmanager
def adapters_off(model: Module) -> Iterator[None]:
    """The model as it was before any training, while this lasts."""
    layers = [each for _, each in adapters_of(model)]
    for each in layers:
        each.enable_adapters(False)
    try:
        yield
    finally:
        for each in layers:
            each.enable_adapters(True)


def base_state(model: Module) -> dict[str, torch.Tensor]:
    """What the adapters leave alone: all weights but theirs and a scalar head's."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if ".lora_" not in name and not name.startswith("score.")
    }


def save_adapters(model: Module, folder: Path, *, writes: bool = True) -> None:
    """Write the adapters in the layout that peft and inference servers load.

    Of processes that hold parts of them, all ask, and one writes.
    """
    from safetensors.torch import save_file

    weights = {
        f"base_model.model.{name.replace('.default.', '.')}": whole(value.detach())
        .cpu()
        .contiguous()
        for name, value in model.state_dict().items()
        if ".lora_" in name
    }
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    layers = adapters_of(model)
    first = layers[0][1]
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": first.r["default"],
        "lora_alpha": first.lora_alpha["default"],
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in layers}),
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(description, indent=2) + "\n")


def merge_adapters(model: Module) -> None:
    """Add the adapters to the weights that they stand beside: a plain model again."""
    for name, layer in adapters_of(model):
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
