"""Settings: frozen, typed, complete when built; read from flags and, under them, a TOML file."""

import argparse
import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from trainer.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def flag(
    default: Any, text: str, *, local: bool = False, common: bool = False, alias: str | None = None
) -> Any:
    """A field with its help text; `...` makes it required.

    `local=True` is for what names a place that only the machine of the run knows (a path, an address, a
    device): whoever starts runs there for others sets it. `common=True` is for what a form shows first.
    An `alias` is an older name that still works.
    """
    metadata = {"help": text, "local": local, "common": common, "alias": alias}
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


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


def refuse_infinite(config: "DataclassInstance") -> None:
    """Raise UsageError for any setting that is infinite or no number."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{as_flag(each.name)} must be a finite number, not {value}")


def refuse_seed(seed: int) -> None:
    """Raise UsageError for a seed that torch's generators do not take: of 64 bits, after we multiply."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed must be at least 0 and below 2^32, not {seed}")


def refuse_models(text: str, name: str) -> None:
    """Raise UsageError where models with commas between are none, or one of them stands there twice."""
    paths = [part.strip() for part in text.split(",") if part.strip()]
    if not paths:
        raise UsageError(f"{name} names no model")
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise UsageError(f"{name} names {min(twice)} twice")


def refuse_no_file(path: str, name: str) -> None:
    """Raise UsageError where no file can be written: told before the work, not after it."""
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"{name} {path}: is a folder, and a file is wanted")
    if not file.parent.is_dir():
        raise UsageError(f"{name} {path}: its folder is not there")


def refuse_no_folder(path: str) -> None:
    """Raise UsageError for a run directory that is a file, or would be inside of one."""
    for each in (Path(path), *Path(path).parents):
        if each.exists():
            if not each.is_dir():
                raise UsageError(f"--out {path}: {each} is a file")
            return


def refuse_device(device: str) -> None:
    """Raise UsageError for a device that there is not."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu or cuda, not {device!r}")


def as_flag(name: str) -> str:
    """`--batch-size` of `batch_size`."""
    return f"--{name.replace('_', '-')}"


def refuse_above(config: object, most: float, *names: str) -> None:
    """Raise UsageError, naming the flag, for a setting that is given and above `most`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value > most:
            raise UsageError(f"{as_flag(name)} must be at most {most}, not {value}")


class FlagEntry(TypedDict):
    """A flag as the catalogue tells it."""

    name: str
    type: str
    help: str
    common: bool


def list_flags(kind: type) -> list[FlagEntry]:
    """The flags of a stage that may be chosen away from the machine of the run."""
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    return [
        {
            "name": each.name.replace("_", "-"),
            "type": _plain(hints[each.name]).__name__,
            "help": str(each.metadata["help"]),
            "common": bool(each.metadata.get("common")),
        }
        for each in dataclasses.fields(kind)
        if not each.metadata.get("local")
    ]


Config = TypeVar("Config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message)


class _Once(argparse.Action):
    """A value; another one for the same flag is refused: which of them was meant?"""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest, values) not in (values,):  # NaN is itself, if not equal
            before = getattr(namespace, self.dest)
            raise UsageError(f"{option_string} is given twice: {before} and {values}")
        setattr(namespace, self.dest, values)


def parse(kind: type[Config], argv: list[str], *, program: str, example: str) -> Config:
    """The configuration of a stage, from its flags. Raises UsageError naming what is wrong."""
    assert dataclasses.is_dataclass(kind)
    doc = (kind.__doc__ or "").strip()
    parser = _Parser(
        prog=program,
        description=doc,
        epilog=f"Example: {program} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="a TOML file with the same names; flags win over it")
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        name = as_flag(each.name)
        plain = _plain(hints[each.name])
        text = str(each.metadata.get("help", "")).replace("%", "%%")
        if each.default not in (dataclasses.MISSING, None, False) and "default" not in text:
            text += f" [default: {each.default}]"
        alias = each.metadata.get("alias")
        names = [name, *([as_flag(alias)] if alias else [])]
        if plain is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, help=text)
        else:
            metavar = plain.__name__.upper()
            parser.add_argument(*names, action=_Once, type=plain, metavar=metavar, help=text)
    given = vars(parser.parse_args(argv))
    file = given.pop("config", None)
    values = {**(read_toml(Path(file), kind) if file else {}), **given}
    missing = [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.name not in values
    ]
    if missing:
        raise UsageError(f"{as_flag(missing[0])} is needed; see --help")
    for each in dataclasses.fields(kind):
        if each.default is dataclasses.MISSING and values[each.name] == "":
            raise UsageError(f"{as_flag(each.name)} is empty")
    return typing.cast(Config, kind(**values))


def _plain(hint: object) -> type:
    """`int` of `int | None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)


def read_toml(path: Path, kind: "type[DataclassInstance]") -> dict[str, object]:
    """Settings of this kind, by name, from a file. Raises UsageError naming what is wrong."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    hints = typing.get_type_hints(kind)
    aliases = {each.metadata.get("alias"): each.name for each in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        name = aliases.get(name, name)
        if name not in hints:
            raise UsageError(f"--config {path}: there is no setting {key!r}")
        values[name] = as_setting(value, hints[name], f"--config {path}: {key}")
    return values


def as_setting(value: object, hint: object, label: str) -> object:
    """A file's value for a setting of that type. Raises UsageError where it is of another."""
    plain = _plain(hint)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not plain:
        raise UsageError(f"{label} must be of type {plain.__name__}")
    return value


def refuse_smoothing(chance: float) -> None:
    """Raise UsageError for a chance of a wrong label that leaves nothing to learn."""
    if not 0 <= chance < 0.5:
        raise UsageError("--label-smoothing must be at least 0 and below 0.5")


def numbers_of(text: str, name: str) -> list[float]:
    """`0.25,0.5` as numbers. Raises UsageError, naming the flag."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{name} must be numbers with commas between, not {text!r}") from None


def refuse_full_window(response_length: int, max_length: int) -> None:
    """Raise UsageError where a response alone would fill the window."""
    if response_length >= max_length:
        raise UsageError(
            f"--response-length {response_length} leaves no room for a prompt in "
            f"--max-length {max_length}"
        )
