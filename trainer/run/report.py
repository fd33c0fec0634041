"""report.html: figures, curves and samples in one file that stands alone."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.values import JsonObject, JsonValue
from trainer.run.directory import Run
from trainer.run.plots import draw_curves

STYLE = """
:root { color-scheme: light dark;
--one: #1f6fb4; --two: #c05a12; --three: #2e7d4f; --four: #8a4fb0; --five: #8f7100; }
@media (prefers-color-scheme: dark) { :root {
--one: #6fb3f0; --two: #f0a060; --three: #6cc493; --four: #c79be8; --five: #d9c04a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .8rem .25rem 0; text-align: left;
vertical-align: top; } th { font-weight: 500; } td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide td, thead th { white-space: nowrap; font-variant-numeric: tabular-nums; }
h3, h4, h5 { margin: 1.2rem 0 .3rem; } h3::first-letter, h4::first-letter { text-transform: uppercase; }
.curves { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.curves svg { width: 100%; max-width: 32rem; height: auto; font-family: inherit; }
.sample { border-top: 1px solid #8886; padding: .5rem 0; } .sample p { white-space: pre-wrap; }
.muted { opacity: .75; }
"""


@dataclass(frozen=True)
class Sample:
    """A prompt's response before and after training, each with its reward."""

    prompt: str
    before: str
    after: str
    reward_before: float
    reward_after: float


def write_report(
    path: Path,
    *,
    run: Run,
    result: Mapping[str, JsonValue],
    samples: Sequence[Sample] = (),
    drawings: Sequence[str] = (),
) -> None:
    """Write the report: the curves of the stage's entry in the catalogue; `drawings` are more SVG."""
    metrics = run.read_metrics()
    entry = run.catalogue
    made = {name: value for name, value in run.describe().items() if name != "catalogue"}
    drawn = [
        draw_curves(
            ", ".join(filter(None, (each["title"], each["unit"]))), metrics, each["metrics"]
        )
        for each in entry["curves"]
    ]
    write_page(
        path,
        title=entry["title"],
        result=result,
        drawings=[*drawn, *drawings],
        samples=samples,
        made=made,
    )


def write_page(
    path: Path,
    *,
    title: str,
    result: Mapping[str, JsonValue],
    drawings: Sequence[str],
    samples: Sequence[Sample] = (),
    made: JsonObject | None = None,
) -> None:
    """Write a page of figures, plots (as SVG), samples, and how it all was made."""
    shown = "".join(map(show_sample, samples))
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<h2>Result</h2>{show_figures(result)}"
        f'<h2>Curves</h2><div class="curves">{"".join(drawings)}</div>'
        + (f"<h2>Samples</h2>{shown}" if shown else "")
        + (f"<h2>How it was made</h2>{show_table(flatten(made))}" if made else "")
        + "</html>\n",
        encoding="utf-8",
    )


def show_figures(value: Mapping[str, JsonValue], level: int = 3) -> str:
    """Figures as tables: single ones by name, rows of like figures in columns, groups under headings."""
    plain: JsonObject = {}
    parts = []
    for name, each in value.items():
        rows = like_rows(each)
        if rows is not None:
            parts.append(show_heading(name, level) + show_columns(rows))
        elif isinstance(each, dict) and each:
            parts.append(show_heading(name, level) + show_figures(each, min(level + 1, 6)))
        elif not isinstance(each, dict):
            plain[name] = each
    return (show_table(plain) if plain else "") + "".join(parts)


def like_rows(value: JsonValue) -> dict[str, JsonObject] | None:
    """Named rows with the same columns, of a dictionary or a list of them; None of anything else."""
    named = dict(enumerate(value, start=1)) if isinstance(value, list) else value
    if not isinstance(named, dict) or not named:
        return None
    rows = {str(name): row for name, row in named.items() if isinstance(row, dict) and row}
    if len(rows) < len(named):
        return None
    columns = {tuple(row) for row in rows.values()}
    nested = any(isinstance(each, dict) for row in rows.values() for each in row.values())
    return rows if len(columns) == 1 and not nested else None


def show_heading(name: str, level: int) -> str:
    """A group's name."""
    return f"<h{level}>{html.escape(name.replace('_', ' '))}</h{level}>"


def show_columns(rows: dict[str, JsonObject]) -> str:
    """Rows of like figures, as a table that scrolls by itself where the screen is narrow."""
    columns = list(next(iter(rows.values())))
    head = "".join(
        f'<th scope="col">{html.escape(name.replace("_", " "))}</th>' for name in columns
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(show(row[column]))}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="Table"><table><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def flatten(value: Mapping[str, JsonValue], prefix: str = "") -> JsonObject:
    """An object without nesting, for a table: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    flat: JsonObject = {}
    for name, each in value.items():
        if isinstance(each, dict):
            flat |= flatten(each, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = each
    return flat


def show_table(rows: JsonObject) -> str:
    """Names and figures, as a table."""
    inner = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(show(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{inner}</table>"


def show(value: JsonValue) -> str:
    """A figure for people."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(show, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_sample(sample: Sample) -> str:
    """A prompt and its two responses."""
    return (
        f'<div class="sample"><p class="muted">{html.escape(sample.prompt)}</p>'
        f"<p><b>Before</b> (reward {sample.reward_before:.2f}) {html.escape(sample.before)}</p>"
        f"<p><b>After</b> (reward {sample.reward_after:.2f}) {html.escape(sample.after)}</p></div>"
    )
