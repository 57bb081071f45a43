"""One page on the evaluations of several models: the accuracy table, and accuracy against time per video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .. import catalog
from ..report import card
from .report import make_page, metric_title, number_cell, signed
from .result import table_rows

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 360, 56, 44  # of a plot


def overview_report(results: Sequence[Mapping[str, Any]], errors: Mapping[str, str] | None = None) -> str:
    """HTML text of a page on several evaluations.

    Args:
        results: dicts of ``EvaluationResult.to_dict()``; they are numbered in this order.
        errors: models that could not be evaluated, with the reason.
    """
    numbered = list(enumerate(results, 1))
    body = [
        f"<header><h1>Accuracy of {len(results)} model{'s' * (len(results) != 1)}</h1>"
        '<p class="by">Measured by each checkpoint\'s own test protocol, beside the published numbers.</p></header>'
    ]
    for dataset in dict.fromkeys(facts["dataset"]["name"] for facts in results):
        rows = [(number, facts) for number, facts in numbered if facts["dataset"]["name"] == dataset]
        title = catalog.datasets().get(dataset, {}).get("title", dataset)
        metric = next((row["metric"] for _, facts in rows for row in table_rows(facts)), "")
        body.append(card(title, _table(rows) + _remarks(rows)))
        if sum(metric in facts["metrics"] for _, facts in rows) > 1:
            body.append(card(f"{metric_title(metric)} against time per video, {title}", _plot(rows, metric)))
    if errors:
        body.append(_errors(errors))
    return make_page("Accuracy of video models", body)


def _table(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """A line for each model; below each measured number the published one and the difference."""
    metrics = dict.fromkeys(row["metric"] for _, facts in rows for row in table_rows(facts))
    lines = []
    for number, facts in rows:
        cells = {row["metric"]: _metric_cell(row) for row in table_rows(facts)}
        failed = f"<small>{facts['failed']:,} failed</small>" if facts["failed"] else ""
        name = f"{escape(facts['model'])}{'*' if facts['remark'] else ''}<small>{escape(facts['protocol'])}</small>"
        lines.append(
            f'<tr><td class="number">{number}</td><td>{name}</td>'
            f"{''.join(cells.get(metric, number_cell(None)) for metric in metrics)}"
            f'<td class="number">{facts["videos"]:,}{failed}</td>'
            f'<td class="number">{facts["seconds_per_video"]:.3g}</td></tr>'
        )
    titles = [*(metric_title(metric) for metric in metrics), "Videos", "s / video"]
    head = "<th></th><th>Model</th>" + "".join(f'<th class="number">{escape(title)}</th>' for title in titles)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _metric_cell(row: Mapping[str, Any]) -> str:
    measured, published, difference = row["measured"], row["published"], row["difference"]
    number = "–" if measured is None else f"{measured:.2f}"
    below = ' class="below"' if (difference or 0) < 0 else ""
    change = "" if difference is None else f" <span{below}>{signed(difference)}</span>"
    note = "not published" if published is None else f"published {published:.2f}{change}"
    return f'<td class="number">{number}<small>{note}</small></td>'


def _remarks(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    remarks = dict.fromkeys(facts["remark"] for _, facts in rows if facts["remark"])
    return "".join(f'<p class="note">* {escape(remark)}</p>' for remark in remarks)


def _errors(errors: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in errors.items())
    table = f"<table><thead><tr><th>Model</th><th>Reason</th></tr></thead><tbody>{rows}</tbody></table>"
    return card("Not measured", f'<div class="scroll">{table}</div>')


# Plot ----------------------------------------------------------------------------------------------------------------


def _plot(rows: Sequence[tuple[int, Mapping[str, Any]]], metric: str) -> str:
    """Measured accuracy over seconds per video; the numbers are those of the table."""
    points = [
        (number, facts["model"], max(facts["seconds_per_video"], 1e-6), facts["metrics"][metric])
        for number, facts in rows
        if metric in facts["metrics"]
    ]
    label = f"{metric_title(metric)} in percent against seconds per video"
    note = "Time of one process, reading and transforms included. Numbers as in the table."
    return accuracy_plot(points, "Seconds per video", "s per video", label, note)


def accuracy_plot(points: Sequence[tuple[int, str, float, float]], title: str, unit: str, label: str, note: str) -> str:
    """SVG of accuracy in percent over a cost, on a logarithmic scale, with a note below.

    Args:
        points: (number that marks it, name, cost, accuracy).
        title: of the axis of costs.
        unit: of a cost, as a point's tooltip names it.
        label: what a screen reader says of the picture.
        note: text, below the picture.
    """
    x_ticks = log_ticks([cost for *_, cost, _ in points])
    y_ticks = nice_ticks([value for *_, value in points])

    def x_of(cost: float) -> float:
        low, high = math.log(x_ticks[0]), math.log(x_ticks[-1])
        return LEFT + (math.log(cost) - low) / (high - low) * (WIDTH - LEFT - 24)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - BOTTOM - 16)

    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 24}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = x_of(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 16V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - 24) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>')
    for number, name, cost, value in points:
        x, y = x_of(cost), y_of(value)
        parts.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(f'{name}: {value:.2f} %, {cost:.3g} {unit}')}</title></circle>"
            f'<text class="mark" x="{x + 8:.1f}" y="{y - 6:.1f}">{number}</text>'
        )
    return (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}'
        f'</svg><p class="note">{escape(note)}</p>'
    )


def nice_ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """Round numbers around all values, a little more than ``count`` of them at most."""
    low, high = min(values), max(values)
    rough = max(high - low, 1.0) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def log_ticks(values: Sequence[float]) -> list[float]:
    """Numbers 1, 2 or 5 times a power of ten around all values."""
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    low = max(i for i, tick in enumerate(ticks) if tick <= min(values))
    high = min(i for i, tick in enumerate(ticks) if tick >= max(values))
    return ticks[low : max(high, low + 1) + 1]
