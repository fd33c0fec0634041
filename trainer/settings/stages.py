"""Settings of the list of stages: none."""

from dataclasses import dataclass

from trainer.settings import Stage


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The stages that train, as JSON: title, what each needs and makes, and its flags."""


STAGE = Stage(
    summary="the stages that train, with their flags, as JSON",
    config=StagesConfig,
    example="",
)
