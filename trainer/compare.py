"""PPO beside what people use instead, on the same data, from the same start, by one command.

Each method makes a run directory of its own under `--out`; a reward model is fitted first where none is
given. All are then measured alike: responses to the same held-out prompts, drawn with the same chances,
scored by `--judge`, against the responses of the starting model. `--strengths` runs PPO, RLOO and DPO
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer import evaluate
from trainer.engine.models import choose_device
from trainer.errors import UsageError
from trainer.run.files import hash_model_files, write_json
from trainer.run.report import draw_points, write_page
from trainer.settings import list_stages
from trainer.settings.compare import CompareConfig
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.flags import numbers_of

Row = dict[str, Any]
# The setting that holds a method to its reference.
PRICES = {"ppo": "kl_coef", "rloo": "kl_coef", "dpo": "beta"}
COLUMNS = (
    ("method", "method", "s"),
    ("price of KL", "strength", ".3g"),
    ("win rate", "win_rate", ".3f"),
    ("95 %", "win_rate_interval", "interval"),
    ("reward", "reward_mean", ".3f"),
    ("KL, nats", "kl", ".2f"),
    ("tokens", "response_length", ".1f"),
    ("seconds", "seconds", ".0f"),
)


def main(config: CompareConfig) -> dict[str, Any]:
    """Run what is missing, measure all, print the table; the result is also in result.json."""
    choose_device(config.device)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    check_same(config, out)
    settings = read_settings(config.settings)
    if config.reward:
        reward = config.reward
    else:
        train("reward", config, out / "reward", settings, {})
        reward = str(out / "reward" / "model")
    rows = []
    for method in config.methods.split(","):
        for strength in numbers_of(config.strengths, "--strengths") if method in PRICES else [None]:
            rows.append(measure(config, out, settings, reward, method, strength))
            say(rows[-1])
    result: dict[str, Any] = {"stage": "compare", "reward": Path(reward).name, "methods": rows}
    print(table(rows), file=sys.stderr)  # noqa: T201 - what it is for
    write_page(
        out / "report.html",
        title="Methods beside each other",
        result={"methods": [as_shown(row) for row in rows]},
        drawings=[
            draw(rows, "reward against distance", "reward_mean", "reward"),
            draw(rows, "win rate against distance", "win_rate", "win rate against the start"),
        ],
    )
    write_json(out / "result.json", result)
    return result


def check_same(config: CompareConfig, out: Path) -> None:
    """Write down what is compared. Raises UsageError where the folder holds another comparison."""
    asked = dataclasses.asdict(config) | {"model_hash": hash_model_files(config.model)}
    free = ("methods", "out", "best_of", "strengths")
    same = {name: value for name, value in asked.items() if name not in free}
    file = out / "config.json"
    if file.exists() and json.loads(file.read_text()) != same:
        raise UsageError(f"--out {out}: holds a comparison with other settings")
    write_json(file, same)


def read_settings(path: str | None) -> dict[str, dict[str, Any]]:
    """{stage: {setting: value}} of a TOML file with a table for each stage. Raises UsageError."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--settings {path}: {error}") from None
    stages = list_stages()
    for stage, values in found.items():
        if stage not in stages or not isinstance(values, dict):
            raise UsageError(f"--settings {path}: {stage!r} is no stage's table")
        hints = typing.get_type_hints(stages[stage].config)
        for name, value in values.items():
            if name not in hints:
                raise UsageError(f"--settings {path}: {stage} has no setting {name!r}")
            if hints[name] in (float, float | None) and isinstance(value, int):
                values[name] = float(value)
    return found


def measure(
    config: CompareConfig,
    out: Path,
    settings: dict[str, dict[str, Any]],
    reward: str,
    method: str,
    strength: float | None,
) -> Row:
    """Run a method where it has not run, and measure it against the start."""
    if method == "best-of-n":
        figures = judge(config, config.model, reward, best_of=config.best_of)
        figures["kl"] = figures.pop("best_of_kl")
        return {"method": f"best of {config.best_of}", "strength": None, "seconds": 0.0, **figures}
    name = method if strength in (None, 1.0) else f"{method}-{strength:g}"
    more: dict[str, Any] = {}
    price = PRICES.get(method)
    if price is not None and strength is not None:
        base = settings.get(method, {}).get(price, default_of(method, price))
        more[price] = base * strength
    if method in ("ppo", "rloo"):
        more |= {"reward": reward, "response_length": config.response_length}
    seconds = train(method, config, out / name, settings, more)
    figures = judge(config, str(out / name / "model"), reward)
    return {
        "method": method,
        "strength": more.get(price) if price else None,
        "seconds": seconds,
        **figures,
    }


def train(
    stage: str,
    config: CompareConfig,
    out: Path,
    settings: dict[str, dict[str, Any]],
    more: dict[str, Any],
) -> float:
    """A stage's run, unless it is there already; the seconds that it took."""
    clock = out / "seconds.json"
    if (out / "result.json").exists() and clock.exists():
        return float(json.loads(clock.read_text()))
    common = {
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
    run: Callable[[Any], Any] = importlib.import_module(f"trainer.{stage}").main
    run(kind(**(common | settings.get(stage, {}) | more)))
    seconds = time.perf_counter() - started
    write_json(clock, seconds)
    return seconds


def default_of(stage: str, name: str) -> float:
    """A setting's default."""
    fields = {each.name: each for each in dataclasses.fields(list_stages()[stage].config)}
    return float(typing.cast(float, fields[name].default))


def judge(config: CompareConfig, policy: str, reward: str, *, best_of: int = 1) -> Row:
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


def name_of(row: Row) -> str:
    """A row's name in a table."""
    strength = row.get("strength")
    return row["method"] if strength is None else f"{row['method']} at {strength:.3g}"


def say(row: Row) -> None:
    """A line of progress."""
    kl = "unknown" if row["kl"] is None else f"{row['kl']:.2f} nats"
    text = f"compare: {name_of(row)}: win rate {row['win_rate']:.3f} at KL {kl}"
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def table(rows: list[Row]) -> str:
    """The rows in columns, for people."""
    cells = [[title for title, _, _ in COLUMNS]]
    cells += [[cell(row.get(key), how) for _, key, how in COLUMNS] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def as_shown(row: Row) -> dict[str, str]:
    """A row's figures under their titles."""
    return {title: cell(row.get(key), how) for title, key, how in COLUMNS}


def cell(value: Any, how: str) -> str:
    """One figure."""
    if value is None:
        return "-"
    if how == "interval":
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return format(value, how)


def draw(rows: list[Row], title: str, key: str, vertical: str) -> str:
    """A point for each row, joined by method, over the square root of KL (Gao et al. 2022)."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["kl"] is not None:
            point = (max(row["kl"], 0.0) ** 0.5, row[key])
            series.setdefault(row["method"], []).append(point)
    return draw_points(title, series, "square root of KL, nats", vertical, joined=True)
