"""Configurations: frozen, typed, complete when built; read from flags and, under them, a TOML file."""

import argparse
import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trainer.errors import UsageError


def flag(default: Any, text: str, **more: Any) -> Any:
    """A field with its help text; `...` makes it required."""
    metadata = {"help": text, **more}
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every training stage takes."""

    data: str = flag(..., "an export directory, or a file of rankings, comparisons or HH pairs")
    model: str = flag(..., "the model to start from: a path or an id")
    out: str = flag(..., "the run directory to write")
    steps: int | None = flag(None, "updates to make [default: what --epochs comes to]")
    epochs: float = flag(1.0, "passes over the data")
    batch_size: int = flag(16, "examples in an update")
    lr: float | None = flag(None, "learning rate [default: the stage's, by model size]")
    max_length: int = flag(
        512, "tokens of prompt and response together; longer prompts lose their start"
    )
    seed: int = flag(0, "seed of everything random")
    device: str = flag("auto", "auto, cpu or cuda")
    resume: bool = flag(False, "go on from the newest checkpoint in --out")
    checkpoint_every: int = flag(50, "updates between checkpoints")
    dtype: str = flag("float32", "float32, or bfloat16 for matrix products (weights stay float32)")
    gradient_checkpointing: bool = flag(False, "compute activations twice instead of keeping them")
    lora_rank: int = flag(0, "train low-rank adapters of this rank; 0 trains all weights")
    lora_alpha: float | None = flag(None, "scale of the adapters [default: their rank]")
    shard: bool = flag(False, "divide the weights among the processes (FSDP)")
    trackers: str = flag("", "also report to these, by comma: tensorboard, wandb, mlflow …")

    def __post_init__(self) -> None:
        """Refuse impossible sizes, naming the flag."""
        refuse_infinite(self)
        refuse_below(self, 1, "steps", "batch_size", "checkpoint_every")
        refuse_below(self, 8, "max_length")
        refuse_below(self, 0, "seed", "lora_rank")
        refuse_not_above(self, 0, "epochs", "lr", "lora_alpha")
        refuse_device(self.device)
        if self.dtype not in ("float32", "bfloat16"):
            raise UsageError(f"--dtype must be float32 or bfloat16, not {self.dtype!r}")


def refuse_below(config: object, least: float, *names: str) -> None:
    """Raise UsageError, naming the flag, for a setting that is given and below `least`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise UsageError(f"{as_flag(name)} must be at least {least}, not {value}")


def refuse_not_above(config: object, bound: float, *names: str) -> None:
    """Raise UsageError, naming the flag, for a setting that is given and not above `bound`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > bound:
            raise UsageError(f"{as_flag(name)} must be above {bound}, not {value}")


def refuse_infinite(config: typing.Any) -> None:
    """Raise UsageError for any setting that is infinite or no number."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{as_flag(each.name)} must be a finite number, not {value}")


def refuse_device(device: str) -> None:
    """Raise UsageError for a device that there is not."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu or cuda, not {device!r}")


def as_flag(name: str) -> str:
    """`--batch-size` of `batch_size`."""
    return f"--{name.replace('_', '-')}"


Config = TypeVar("Config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message)


def parse(kind: type[Config], argv: list[str], *, stage: str, example: str) -> Config:
    """The configuration of a stage, from its flags. Raises UsageError naming what is wrong."""
    assert dataclasses.is_dataclass(kind)
    doc = (kind.__doc__ or "").strip()
    parser = _Parser(
        prog=f"python -m trainer {stage}",
        description=doc,
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", help="a TOML file with the same names; flags win over it")
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        name = as_flag(each.name)
        plain = _plain(hints[each.name])
        text = str(each.metadata.get("help", "")).replace("%", "%%")
        if each.default not in (dataclasses.MISSING, None, False) and "default" not in text:
            text += f" [default: {each.default}]"
        if plain is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(name, type=plain, metavar=plain.__name__.upper(), help=text)
    given = vars(parser.parse_args(argv))
    file = given.pop("config", None)
    values = {**(_read_toml(Path(file), hints) if file else {}), **given}
    missing = [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.name not in values
    ]
    if missing:
        raise UsageError(f"{as_flag(missing[0])} is needed; see --help")
    return typing.cast(Config, kind(**values))


def _plain(hint: Any) -> type:
    """`int` of `int | None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)


def _read_toml(path: Path, hints: dict[str, Any]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    values = {}
    for key, given in found.items():
        value = given
        name = key.replace("-", "_")
        if name not in hints:
            raise UsageError(f"--config {path}: there is no setting {key!r}")
        plain = _plain(hints[name])
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not plain:
            raise UsageError(f"--config {path}: {key} must be of type {plain.__name__}")
        values[name] = value
    return values


def default_lr(base: float, base_parameters: float, parameters: int) -> float:
    """A learning rate for a model of this size, from one that is known to work at another.

    Smaller models bear larger steps; the inverse square root of the parameter count fits the published
    settings from 100 million to 10 billion parameters well enough to start from.
    """
    return float(base * (base_parameters / max(parameters, 1)) ** 0.5)
