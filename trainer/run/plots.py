"""Plots as SVG, in the colours of the page that they stand in."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer.data.values import JsonObject
from trainer.run.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.formulas.evaluation import CalibrationBin

# What matplotlib writes, and the colour of the page that takes its place.
COLOURS = {
    "#000001": "currentColor",
    "#000002": "var(--one)",
    "#000003": "var(--two)",
    "#000004": "var(--three)",
    "#000005": "var(--four)",
    "#000006": "var(--five)",
}
INK, *LINES = COLOURS


def draw_curves(title: str, metrics: Sequence[Metrics], keys: Sequence[str]) -> str:
    """One plot of some metrics over the steps, as SVG; figures that are missing leave holes."""
    figure = _figure(title)
    (axes,) = figure.axes
    for key, colour in zip(keys, LINES, strict=False):
        points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
        if points:
            mark = "." if len(points) < 30 else ""
            axes.plot(
                *zip(*points, strict=True), marker=mark, label=key, linewidth=1.3, color=colour
            )
    axes.set_xlabel("step", fontsize=8, color=INK)
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _svg(figure)


def draw_frontier(metrics: Sequence[Metrics], keys: Sequence[str] = ("score",)) -> str:
    """Reward against the distance from the reference (Gao et al. 2022: sqrt KL is the axis).

    With the score of a held-out reward model beside it, over-optimisation is seen:
    the one goes on rising with the distance, the other turns.
    """
    series = {
        key: [
            (max(kl, 0.0) ** 0.5, value)
            for row in metrics
            if (kl := row.get("kl")) is not None and (value := row.get(key)) is not None
        ]
        for key in keys
    }
    return draw_points("reward against distance", series, "square root of KL, nats", "reward")


def draw_points(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    horizontal: str,
    vertical: str,
    *,
    joined: bool = False,
    diagonal: bool = False,
) -> str:
    """A plot of at most five series of (x, y), as SVG; `diagonal` draws where y is x."""
    figure = _figure(title)
    (axes,) = figure.axes
    if diagonal:
        axes.axline((0, 0), slope=1, color=INK, alpha=0.3, linewidth=1)
    for (name, points), colour in zip(series.items(), LINES, strict=False):
        if points:
            axes.plot(
                *zip(*sorted(points), strict=True),
                label=name,
                color=colour,
                markersize=4,
                marker="o" if joined else ".",
                linewidth=1.3 if joined else 0,
            )
    axes.set_xlabel(horizontal, fontsize=8, color=INK)
    axes.set_ylabel(vertical, fontsize=8, color=INK)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _svg(figure)


def _figure(title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(alpha=0.2, color=INK)
    for spine in axes.spines.values():
        spine.set(color=INK, alpha=0.4)
    return figure


def _svg(figure: "Figure") -> str:
    """The figure as inline SVG, in the page's colours, the same each time it is drawn."""
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "plackett"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for written, colour in COLOURS.items():
        drawing = drawing.replace(written, colour)
    return re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)


def draw_calibration(split: str, bins: Sequence["CalibrationBin"]) -> str:
    """Accuracy against confidence: on the diagonal, a reward model means what it says."""
    points = [(each["confidence"], each["accuracy"]) for each in bins]
    return draw_points(
        f"calibration ({split})",
        {"pairs": points},
        "confidence",
        "accuracy",
        joined=True,
        diagonal=True,
    )


def draw_sizes(rows: Sequence[JsonObject]) -> str:
    """Accuracy against the number of training rankings."""
    points = [
        (float(size), accuracy)
        for row in rows
        if isinstance(accuracy := row["accuracy"], float)
        and isinstance(size := row["train_rankings"], int)
    ]
    return draw_points(
        "accuracy against size", {"held out": points}, "training rankings", "accuracy", joined=True
    )
