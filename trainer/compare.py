"""PPO beside what people use instead, on the same data, from the same start, by one command.

Each method makes a run directory of its own under `--out`; a reward model is fitted first where none is
given. All are then measured alike: responses to the same held-out prompts, drawn with the same chances,
scored by `--judge`, against the responses of the starting model. `--kl-scales` runs PPO, RLOO and DPO
with their KL price (for DPO: beta) multiplied by each number: points of the frontier of reward against KL.

Best-of-n draws n responses of the starting model and takes the reward model's favourite; its KL is the
bound log n - (n - 1) / n (Stiennon et al. 2020). A method whose result.json is there is not run again.

    python -m trainer compare --data EXPORT --model MODEL --out RUNS [--settings stages.toml]
"""

import dataclasses
import importlib
import json
import sys
import time
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from trainer import evaluate
from trainer.data.values import JsonObject, JsonValue, Result
from trainer.engine.models import choose_device
from trainer.errors import TrainerError, UsageError
from trainer.run.files import hash_model_files, read_description, write_json
from trainer.run.judges import CLIMBED, HELD_OUT
from trainer.run.plots import draw_points
from trainer.run.report import write_page
from trainer.settings import list_stages
from trainer.settings.compare import CompareConfig
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.flags import as_setting, numbers_of

Settings = dict[str, dict[str, object]]  # by stage
# The setting that holds a method to its reference.
PRICES = {"ppo": "kl_coef", "rloo": "kl_coef", "dpo": "beta"}


class Column(NamedTuple):
    """A column of the table: its title, a row's key, and the figure's format."""

    title: str
    key: str
    format: str


COLUMNS = (
    Column("method", "method", "s"),
    Column("price of KL", "kl_price", ".3g"),
    Column("win rate", "win_rate", ".3f"),
    Column("95 %", "win_rate_interval", "interval"),
    Column("reward", "reward_mean", ".3f"),
    Column("KL, nats", "kl", ".2f"),
    Column("tokens", "response_length", ".1f"),
    Column("seconds", "seconds", ".0f"),
)


class StageModule(Protocol):
    """A stage's file."""

    def main(self, config: object) -> Result:
        """Run it."""


def main(config: CompareConfig) -> Result:
    """Run what is missing, measure all, print the table; the result is also in result.json."""
    choose_device(config.device)
    out = Path(config.out)
    settings = read_settings(config.settings)
    compared = check_same(config, out)
    if config.reward:
        reward = config.reward
    else:
        train("reward", config, out / "reward", settings, {})
        reward = str(out / "reward" / "model")
    rows = []
    for method in config.methods.split(","):
        scales = numbers_of(config.kl_scales, "--kl-scales") if method in PRICES else [None]
        for kl_scale in scales:
            rows.append(measure(config, out, settings, reward, method, kl_scale))
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "config.json", compared)
            report_progress(rows[-1])
    judge = judge_of(config, reward)
    result: JsonObject = {
        "stage": "compare",
        "reward": Path(reward).name,
        "judge": judge,
        "methods": rows,
    }
    print(f"win rates by {judge}\n{table(rows)}", file=sys.stderr)  # noqa: T201 - what it is for
    write_page(
        out / "report.html",
        title="Methods beside each other",
        result={"judge": judge, "methods": [as_shown(row) for row in rows]},
        drawings=[
            draw(rows, "reward against distance", "reward_mean", "reward"),
            draw(rows, "win rate against distance", "win_rate", "win rate against the start"),
        ],
    )
    write_json(out / "result.json", result)
    return result


def judge_of(config: CompareConfig, reward: str) -> str:
    """Whether the judge is the reward model that methods were trained against, or that chose."""
    if config.judge is None:
        return CLIMBED
    same = hash_model_files(config.judge) == hash_model_files(reward)
    return CLIMBED if same else HELD_OUT


def check_same(config: CompareConfig, out: Path) -> JsonObject:
    """What is compared. Raises UsageError where the folder holds another comparison."""
    asked = dataclasses.asdict(config) | {"model_hash": hash_model_files(config.model)}
    free = ("methods", "out", "best_of", "kl_scales")
    same = {name: value for name, value in asked.items() if name not in free}
    file = out / "config.json"
    if file.exists() and read_description(file) != same:
        raise UsageError(f"--out {out}: holds a comparison with other settings")
    return same


def read_settings(path: str | None) -> Settings:
    """{stage: {setting: value}} of a TOML file with a table for each stage. Raises UsageError."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--settings {path}: {error}") from None
    stages = list_stages()
    for stage, values in tables.items():
        if stage not in stages or not isinstance(values, dict):
            raise UsageError(f"--settings {path}: {stage!r} is no stage's table")
        hints = typing.get_type_hints(stages[stage].config)
        for name, value in values.items():
            if name not in hints:
                raise UsageError(f"--settings {path}: {stage} has no setting {name!r}")
            values[name] = as_setting(value, hints[name], f"--settings {path}: {stage}.{name}")
    return tables


def measure(
    config: CompareConfig,
    out: Path,
    settings: Settings,
    reward: str,
    method: str,
    kl_scale: float | None,
) -> JsonObject:
    """Run a method where it has not run, and measure it against the start."""
    if method == "best-of-n":
        figures = evaluate_policy(config, config.model, reward, best_of=config.best_of)
        figures["kl"] = figures.pop("best_of_kl")
        name = f"best of {config.best_of}"
        return {"method": name, "kl_price": None, "seconds": 0.0, **figures}
    name = method if kl_scale in (None, 1.0) else f"{method}-{kl_scale:g}"
    more: dict[str, object] = {}
    kl_price = None
    if kl_scale is not None:
        setting = PRICES[method]
        base = settings.get(method, {}).get(setting, default_of(method, setting))
        more[setting] = kl_price = typing.cast(float, base) * kl_scale
    if method in ("ppo", "rloo"):
        more |= {"reward": reward, "response_length": config.response_length}
    seconds = train(method, config, out / name, settings, more)
    figures = evaluate_policy(config, str(out / name / "model"), reward)
    return {"method": method, "kl_price": kl_price, "seconds": seconds, **figures}


def train(
    stage: str, config: CompareConfig, out: Path, settings: Settings, more: dict[str, object]
) -> float:
    """A stage's run, unless it is there already; the seconds that it took."""
    clock = out / "seconds.json"
    if (out / "result.json").exists() and clock.exists():
        try:
            return float(json.loads(clock.read_text()))
        except (TypeError, ValueError):
            raise TrainerError(f"{clock}: holds no seconds") from None
    common: dict[str, object] = {
        "data": config.data,
        "model": config.model,
        "out": str(out),
        "seed": config.seed,
        "device": config.device,
        "max_length": config.max_length,
        "resume": True,
    }
    kind = list_stages()[stage].config
    started = time.perf_counter()
    module = typing.cast(StageModule, importlib.import_module(f"trainer.{stage}"))
    module.main(kind(**(common | settings.get(stage, {}) | more)))
    seconds = time.perf_counter() - started
    write_json(clock, seconds)
    return seconds


def default_of(stage: str, name: str) -> float:
    """A setting's default."""
    fields = {each.name: each for each in dataclasses.fields(list_stages()[stage].config)}
    return float(typing.cast(float, fields[name].default))


def evaluate_policy(
    config: CompareConfig, policy: str, reward: str, *, best_of: int = 1
) -> JsonObject:
    """The figures of a policy against the start, on prompts that are not trained on."""
    figures = evaluate.main(
        EvaluateConfig(
            data=config.prompts or config.data,
            reward=config.judge or reward,
            choose_by=reward if config.judge and best_of > 1 else None,
            policy=policy,
            against=config.model,
            best_of=best_of,
            max_length=config.max_length,
            response_length=config.response_length,
            seed=config.seed + 1,
            device=config.device,
        )
    )
    wanted = (
        *("win_rate", "win_rate_interval", "reward_mean", "against_reward_mean", "kl"),
        *("response_length", "prompts", "best_of_kl"),
    )
    return {name: figures[name] for name in wanted if name in figures}


def report_progress(row: JsonObject) -> None:
    """A line of progress."""
    price, kl = row["kl_price"], row["kl"]
    name = row["method"] if price is None else f"{row['method']} at {price:.3g}"
    distance = "unknown" if kl is None else f"{kl:.2f} nats"
    text = f"compare: {name}: win rate {row['win_rate']:.3f} at KL {distance}"
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def table(rows: Sequence[JsonObject]) -> str:
    """The rows in columns, for people."""
    lines = [[column.title for column in COLUMNS]]
    lines += [list(as_shown(row).values()) for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if index else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_shown(row: JsonObject) -> dict[str, str]:
    """A row's figures under their titles."""
    return {column.title: cell(row.get(column.key), column.format) for column in COLUMNS}


def cell(value: JsonValue, spec: str) -> str:
    """One figure."""
    if value is None:
        return "-"
    if isinstance(value, list):
        low, high = value
        return f"{low:.3f} to {high:.3f}"
    return format(value, spec)


def draw(rows: Sequence[JsonObject], title: str, key: str, vertical: str) -> str:
    """A point for each row, joined by method, over the square root of KL (Gao et al. 2022)."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        kl, figure = row["kl"], row[key]
        if isinstance(kl, float) and isinstance(figure, float):
            series.setdefault(str(row["method"]), []).append((max(kl, 0.0) ** 0.5, figure))
    return draw_points(title, series, "square root of KL, nats", vertical, joined=True)
