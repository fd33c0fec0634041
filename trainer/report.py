"""report.html: curves and samples in one file that stands alone."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .8rem .25rem 0; text-align: left;
vertical-align: top; } .curves { display: grid; gap: 1rem;
grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
.sample { border-top: 1px solid #8886; padding: .5rem 0; } .muted { opacity: .7; }
"""


def write_report(
    path: Path,
    *,
    title: str,
    metrics: Sequence[dict[str, Any]],
    curves: Sequence[tuple[str, Sequence[str]]],
    result: dict[str, Any],
    notes: Sequence[str] = (),
    samples: Sequence[tuple[str, str, str]] = (),
    frontier: bool = False,
) -> None:
    """Write the report: `curves` are (title, names of metrics), `samples` (prompt, before, after)."""
    drawn = [draw_curves(name, metrics, keys) for name, keys in curves]
    if frontier:
        drawn.append(draw_frontier(metrics))
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(show(value))}</td></tr>"
        for name, value in result.items()
    )
    told = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    shown = "".join(
        f'<div class="sample"><p class="muted">{html.escape(prompt)}</p><p><b>Before</b> '
        f"{html.escape(before)}</p><p><b>After</b> {html.escape(after)}</p></div>"
        for prompt, before, after in samples
    )
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><h2>Result</h2><table>{rows}</table>"
        f'<h2>Curves</h2><div class="curves">{"".join(drawn)}</div>'
        + (f"<h2>Notes</h2><ul>{told}</ul>" if told else "")
        + (f"<h2>Samples</h2>{shown}" if shown else "")
        + "</html>\n"
    )


def show(value: Any) -> str:
    """A figure for people."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def draw_curves(title: str, metrics: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    """One plot of some metrics over the steps, as SVG."""
    figure, axes = _figure(title)
    for key in keys:
        points = [(row["step"], row[key]) for row in metrics if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=key, linewidth=1.3)
    axes.set_xlabel("step")
    if len(keys) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def draw_frontier(metrics: Sequence[dict[str, Any]]) -> str:
    """Reward against the distance from the reference (Gao et al. 2022: sqrt KL is the axis)."""
    figure, axes = _figure("reward against sqrt(KL)")
    points = [(max(row["kl"], 0.0) ** 0.5, row["score"]) for row in metrics if "kl" in row]
    if points:
        axes.plot(*zip(*points, strict=True), ".", markersize=4)
    axes.set_xlabel("sqrt(KL), nats")
    axes.set_ylabel("reward")
    return _svg(figure)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return drawing[drawing.index("<svg") :]
