"""Where a run comes from: what config.json records besides the settings."""

from trainer.data.examples import Data, Example
from trainer.data.values import JsonObject, JsonValue
from trainer.engine.onednn import linear_library
from trainer.run.files import hash_model_files
from trainer.settings.training import TrainingConfig


def provenance_of(
    config: TrainingConfig,
    data: Data[Example],
    *,
    lr: float,
    lr_source: str,
    window: int,
    **more: JsonValue,
) -> JsonObject:
    """Hashes of data and start, and what the settings left to the stage: a run that goes on must agree."""
    return {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "lr": lr,
        "lr_source": lr_source,
        "linear": linear_library(),
        "window": window,
        "left_out": {**data.left_out.counts},
        **more,
    }
