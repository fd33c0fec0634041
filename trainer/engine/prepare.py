"""A model made ready for a run: precision, adapters, checkpointing, shards; and a plain one again."""

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from trainer.engine.capabilities import explore
from trainer.engine.distributed import Processes, wants_shards
from trainer.engine.lora import add_adapters, merge_adapters
from trainer.engine.onednn import quicken
from trainer.engine.optimizer import load_weights, weights_of
from trainer.settings.training import TrainingConfig


def equip(
    model: Any,
    config: TrainingConfig,
    processes: Processes,
    *,
    learns: bool = True,
    quick: bool = False,
) -> Any:
    """The model as the run computes with it: precision, adapters, checkpointing, shards.

    `quick` takes the faster products of oneDNN, which in batches of ever other shapes cost memory.
    """
    if config.dtype != "float32":
        model.compute_dtype = getattr(torch, config.dtype)
    elif quick:
        quicken(model)
    explore(model)
    if learns:
        equip_adapters(model, config)
    if learns and config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()  # frozen embeddings would end the backward pass early
        model.last_layer = None  # the second computation comes when nobody knows what was read
        model.train()  # there is no dropout: this switches the checkpoints on, and nothing else
    if wants_shards(config.shard):
        processes.shard(model)
    return model


def equip_adapters(model: Any, config: TrainingConfig) -> Any:
    """The model, with adapters if the run wants them."""
    if config.lora_rank:
        add_adapters(model, rank=config.lora_rank, alpha=config.lora_alpha or config.lora_rank)
    return model


def whole_model(model: Any, reload: Callable[[], Any], config: TrainingConfig) -> Any:
    """A plain model with what was learnt: adapters merged, nothing divided. All processes ask.

    The model must not be trained after this.
    """
    if any(isinstance(each, DTensor) for each in model.parameters()):
        divided = model
        model = equip_adapters(reload(), config)
        load_weights(model, weights_of(divided))
        model.config.update(divided.config.to_dict())
    if config.lora_rank:
        merge_adapters(model)
    return model
