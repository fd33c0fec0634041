"""A model made ready for a run: precision, adapters, checkpointing, shards; and a plain one again."""

from collections.abc import Callable

import torch
from torch.distributed.tensor import DTensor

from trainer.engine.capabilities import probe_capabilities
from trainer.engine.distributed import Processes, wants_shards
from trainer.engine.lora import add_adapters, merge_adapters
from trainer.engine.models import checkpoint_activations
from trainer.engine.onednn import use_onednn_linear
from trainer.engine.optimizer import load_weights, weights_of
from trainer.engine.protocols import AnyModel, Model
from trainer.settings.training import TrainingConfig


def prepare_model(
    model: AnyModel,
    config: TrainingConfig,
    processes: Processes,
    *,
    trainable: bool = True,
    onednn: bool = False,
) -> AnyModel:
    """The model as the run computes with it: precision, adapters, checkpointing, shards.

    `onednn` takes the faster matrix products of that library, which in batches of ever other shapes cost
    memory.
    """
    if config.dtype != "float32":
        model.compute_dtype = getattr(torch, config.dtype)
    elif onednn and processes.device.type == "cpu":  # it may be on its way to another
        use_onednn_linear(model)
    if trainable:
        add_adapters_if_asked(model, config)
    if wants_shards(config.shard):
        processes.shard(model)
    probe_capabilities(model)  # where it computes: a divided model comes to the device in parts
    if trainable and config.gradient_checkpointing:
        checkpoint_activations(model)
        model.last_layer = None  # the second computation comes when nobody knows what was read
    return model


def add_adapters_if_asked(model: Model, config: TrainingConfig) -> None:
    """Put adapters into the model if the run wants them."""
    if config.lora_rank:
        add_adapters(model, rank=config.lora_rank, alpha=config.lora_alpha or config.lora_rank)


def plain_model(
    model: AnyModel, reload: Callable[[], AnyModel], config: TrainingConfig
) -> AnyModel:
    """A plain model with what was learnt: adapters merged, nothing divided. All processes ask.

    The model must not be trained after this.
    """
    if any(isinstance(each, DTensor) for each in model.parameters()):
        divided, model = model, reload()
        add_adapters_if_asked(model, config)
        load_weights(model, weights_of(divided))
        model.config.update(divided.config.to_dict())
    if config.lora_rank:
        merge_adapters(model)
    return model
