"""One self-contained HTML page on an evaluation, in the look of the page on predictions; text in it is escaped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..prediction import describe_input
from ..report import PAGE, STYLE, card, describe_metrics, fact_list, web_link
from .metrics import average_precision, confusion_matrix, many_hot
from .result import ClassResult, Comparison, EvaluationResult

METRIC_TITLES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "mAP": "Mean average precision over classes",
    "AUC": "Area under recall against number",
    "average_mAP": "Mean of mAP at IoU 0.5 to 0.95",
    "mmit_mAP": "Mean average precision over videos",
    "frame_mAP": "Mean average precision in frames",
    "video_mAP_0.2": "Mean average precision of tubes, IoU 0.2",
    "video_mAP_0.5": "Mean average precision of tubes, IoU 0.5",
}
WORST, CONFUSED, PAIRS, LISTED = 15, 16, 12, 200  # rows of the parts of a page

CELL = 36  # side of a cell of the confusion matrix, pixels

EVALUATION_STYLE = """
:root { --wrong: #b4512c; }
@media (prefers-color-scheme: dark) { :root { --wrong: #e58f66; } }
h1 { font-size: clamp(1.5rem, 4vw, 2.25rem); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1.25rem 2rem;
  margin-top: 1.75rem; }
.figures dt { color: var(--soft); font-size: .8125rem; } .figures dd { font-size: 1.75rem; font-weight: 650;
  letter-spacing: -.01em; font-variant-numeric: tabular-nums; line-height: 1.25; }
.figures div:first-child dd { color: var(--accent); }
.figures small { display: block; font-size: .8125rem; font-weight: 400; color: var(--soft); letter-spacing: 0; }
.remark { margin-top: 1.25rem; color: var(--soft); font-size: .9375rem; }
.scroll { overflow-x: auto; } .scroll table { min-width: 38rem; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8125rem; }
th, td { padding: .4375rem 1.25rem .4375rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } th:last-child, td:last-child { padding-right: 0; }
td { overflow-wrap: anywhere; } td small { display: block; color: var(--soft); font-size: .8125rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
.below { color: var(--wrong); }
.bars.plain li:first-child .fill { background: var(--accent-soft); }
.bars.plain li:first-child .name { font-weight: 400; }
.bars .name small { color: var(--soft); font-size: .8125rem; }
.heat { display: block; }
.heat text { font-size: 12px; fill: var(--soft); }
.heat .count { font-size: 11px; fill: var(--ink); pointer-events: none; }
.heat .ground { fill: var(--track); } .heat .right { fill: var(--accent); } .heat .wrong { fill: var(--wrong); }
.plot { display: block; width: 100%; max-width: 45rem; height: auto; }
.plot text { font-size: 12px; fill: var(--soft); } .plot .grid { stroke: var(--line); }
.plot .point { fill: var(--accent); } .plot .mark { fill: var(--ink); font-size: 11px; }
.plot .bar { fill: var(--accent-soft); }
details summary { cursor: pointer; color: var(--accent); font-size: .9375rem; }
details table { margin-top: .75rem; }
"""


def evaluation_report(result: EvaluationResult) -> str:
    """HTML text of a page on one evaluation."""
    has_classes = result.videos and (result.labels or result.per_class is not None)
    classes = _Classes(result) if has_classes else None
    body = [_head(result), _table(result)]
    if result.curve:
        body.append(card("Recall against the number of proposals", _curve(result.curve)))
    if classes is not None:
        body.append(f'<div class="pair">{card("Weakest classes", classes.worst())}{_confused(classes)}</div>')
        body.append(classes.heat_map())
        body.append(card("All classes", classes.distribution() + classes.table()))
    if result.comparison is not None:
        body.append(_changes(result, result.comparison))
    body += [_failures(result), _facts(result)]
    title = f"{result.model['full_name']} on {result.dataset['title']}"
    return make_page(title, body)


def write_evaluation_report(path: str | os.PathLike[str], result: EvaluationResult) -> None:
    """Write :func:`evaluation_report` to a file, completely or not at all."""
    write_page(path, evaluation_report(result))


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write text to a file, completely or not at all."""
    from ..checkpoint import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_page(title: str, body: Sequence[str]) -> str:
    """HTML text of a whole page from its parts; empty parts are left out."""
    from .. import __version__

    text = "\n".join(part for part in body if part)
    return PAGE.substitute(title=escape(title), style=STYLE + EVALUATION_STYLE, body=text, version=escape(__version__))


# Numbers -------------------------------------------------------------------------------------------------------------


def metric_title(name: str) -> str:
    """A metric's name for people."""
    return METRIC_TITLES.get(name, name.replace("_", " "))


def signed(value: float | None) -> str:
    """ "+0.31", with a real minus sign; empty for None."""
    return "" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _head(result: EvaluationResult) -> str:
    split = f", {result.dataset['split']}" if result.dataset.get("split") else ""
    figures = []
    for name, value in list(result.metrics.items())[:3]:
        note = f"{result.reference} {result.published[name]:.2f}" if name in result.published else "not published"
        figures.append((metric_title(name), f"{value:.2f} %", note))
    failed = f"{len(result.failures):,} could not be read" if result.failures else "all could be read"
    figures.append((f"{result.unit.capitalize()}s", f"{len(result.videos):,}", failed))
    items = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for title, value, note in figures
    )
    remark = f'<p class="remark">{escape(result.remark)}</p>' if result.remark else ""
    return (
        f'<header><p class="file">{escape(result.dataset["title"] + split)}</p>'
        f'<h1>{escape(result.model["full_name"])}</h1><p class="by">{escape(result.protocol)}</p>'
        f'<dl class="figures">{items}</dl>{remark}</header>'
    )


def _table(result: EvaluationResult) -> str:
    rows = []
    published = {k: v for k, v in result.published.items() if isinstance(v, int | float)}
    for name in dict.fromkeys([*result.metrics, *published]):
        measured, difference = result.metrics.get(name), result.differences.get(name)
        rows.append(
            f"<tr><td>{escape(metric_title(name))}</td>{number_cell(published.get(name))}{number_cell(measured)}"
            f'<td class="number{" below" if (difference or 0) < 0 else ""}">{signed(difference)}</td></tr>'
        )
    if not rows:
        return ""
    reference = result.reference.capitalize()
    head = "<tr><th></th>" + "".join(f'<th class="number">{t}</th>' for t in (reference, "Measured", "Difference"))
    origin = result.published.get("origin")
    note = f'<p class="note">In percent. {reference}: {escape(str(origin))}.</p>' if origin else ""
    return card(
        f"{reference} and measured", f"<table><thead>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def number_cell(value: float | None) -> str:
    """A right-aligned cell of a table, empty for None."""
    return f'<td class="number">{"" if value is None else f"{value:.2f}"}</td>'


# Classes -------------------------------------------------------------------------------------------------------------


class _Classes:
    """What the report says about single classes: accuracy, or average precision where videos have several labels."""

    def __init__(self, result: EvaluationResult) -> None:
        self.names = result.class_names
        self.exclusive = all(len(labels) == 1 for labels in result.labels) and not result.model.get("multi_label")
        self.counted, count = "videos", len(self.names)
        if result.per_class is not None:
            self._take(result.per_class)
            self.counted = f"true {result.counted}"
            return
        table = many_hot(result.labels, count)
        self.videos = table.sum(0)  # of each class
        if self.exclusive:
            actual = np.array([labels[0] for labels in result.labels], np.int64)
            self.matrix = confusion_matrix(result.predicted, actual, num_classes=count)
            self.values = np.diag(self.matrix) / np.maximum(self.videos, 1)
        else:
            self.matrix = None
            self.values = np.array(
                [average_precision(result.scores[:, i], table[:, i]) if self.videos[i] else 0.0 for i in range(count)]
            )
        present = np.flatnonzero(self.videos)
        self.order = present[np.argsort(self.values[present], kind="stable")]  # worst first

    def _take(self, rows: Sequence[ClassResult]) -> None:
        """The classes as the metric of a detector or localiser has them."""
        self.names, self.exclusive, self.matrix = [row.name for row in rows], False, None
        self.videos = np.array([row.positives for row in rows], np.int64)
        self.values = np.array([row.average_precision or 0.0 for row in rows]) / 100
        present = np.flatnonzero(self.videos)
        self.order = present[np.argsort(self.values[present], kind="stable")]

    def worst(self) -> str:
        items = [
            f'<li><span class="name">{escape(self.names[i])} <small>{self.videos[i]}</small></span>'
            '<span class="track" aria-hidden="true">'
            f'<span class="fill" style="width:{100 * self.values[i]:.2f}%"></span></span>'
            f'<span class="value">{_percent(self.values[i])}</span></li>'
            for i in self.order[:WORST]
        ]
        what = "Share of a class's videos that are recognised" if self.exclusive else "Average precision of a class"
        note = f'<p class="note">{what}, beside its number of {self.counted}.</p>'
        return f'<ol class="bars plain">{"".join(items)}</ol>{note}'

    def confusions(self) -> list[tuple[int, int, int]]:
        """(actual, predicted, videos) of all mistakes, the most frequent first."""
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        actual, predicted = np.nonzero(wrong)
        counts = wrong[actual, predicted]
        order = np.argsort(-counts, kind="stable")
        return [(int(actual[i]), int(predicted[i]), int(counts[i])) for i in order]

    def heat_map(self) -> str:
        """The confusion matrix of the classes with the most frequent mistakes, as a picture."""
        mistakes = self.confusions() if self.exclusive else []
        if not mistakes:
            return ""
        chosen: dict[int, None] = {}  # each mistake's classes stand next to each other where there is room
        for actual, predicted, _ in mistakes:
            new = [i for i in (actual, predicted) if i not in chosen]
            if len(chosen) + len(new) <= CONFUSED:
                chosen |= dict.fromkeys(new)
        picture = _heat_svg(self.matrix, list(chosen), self.names)
        note = (
            '<p class="note">Rows are true classes, columns predicted ones, numbers are videos; the shade is the share '
            "of the true class.</p>"
        )
        return card("Classes that are confused most", f'<div class="scroll">{picture}</div>{note}')

    def distribution(self) -> str:
        """How many classes reach which tenth of the scale, as bars."""
        counts, _ = np.histogram(self.values[self.order], bins=10, range=(0, 1))
        step, height, parts = 64, 120, []
        for i, count in enumerate(counts):
            size = count / counts.max() * height
            parts.append(
                f'<rect class="bar" x="{i * step + 4}" y="{height - size + 18:.1f}" width="{step - 8}" '
                f'height="{size:.1f}" rx="3"/>'
                f'<text x="{(i + 0.5) * step}" y="{height - size + 12:.1f}" text-anchor="middle">{count or ""}</text>'
                f'<text x="{(i + 0.5) * step}" y="{height + 36}" text-anchor="middle">{10 * i}–{10 * i + 10}</text>'
            )
        return (
            f'<svg class="plot" role="img" aria-label="Number of classes by their result in percent" '
            f'viewBox="0 0 {10 * step} {height + 42}">{"".join(parts)}</svg>'
        )

    def table(self) -> str:
        what = "Accuracy" if self.exclusive else "Average precision"
        rows = "".join(
            f'<tr><td class="number">{i}</td><td>{escape(self.names[i])}</td><td class="number">{self.videos[i]}</td>'
            f'<td class="number">{_percent(self.values[i])}</td></tr>'
            for i in self.order
        )
        head = (
            f'<th class="number">Index</th><th>Class</th><th class="number">{self.counted.capitalize()}</th>'
            f'<th class="number">{what}</th>'
        )
        return (
            '<p class="note">Classes by their result in percent.</p>'
            f"<details><summary>Table of {len(self.order)} classes</summary>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></details>"
        )


def _confused(classes: _Classes) -> str:
    mistakes = classes.confusions()[:PAIRS] if classes.exclusive else []
    if not mistakes:
        return ""
    rows = "".join(
        f'<tr><td>{escape(classes.names[a])}</td><td>{escape(classes.names[p])}</td><td class="number">{n}</td></tr>'
        for a, p, n in mistakes
    )
    head = '<tr><th>True class</th><th>Predicted</th><th class="number">Videos</th></tr>'
    return card("Most frequent mistakes", f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")


def _heat_svg(matrix: np.ndarray, chosen: Sequence[int], names: Sequence[str]) -> str:
    letter = 7  # mean width in pixels
    rows, columns = [_short(names[i]) for i in chosen], [_short(names[i], 24) for i in chosen]
    left = letter * max(map(len, rows)) + 12
    top = slanted = letter * max(map(len, columns)) * 7 // 10 + 20
    parts = []
    for place, actual in enumerate(chosen):
        x, y = left + place * CELL, top + place * CELL
        parts.append(f'<text x="{left - 8}" y="{y + 22}" text-anchor="end">{escape(rows[place])}</text>')
        parts.append(f'<text transform="translate({x + 21} {top - 8}) rotate(-45)">{escape(columns[place])}</text>')
        for column, predicted in enumerate(chosen):
            count, total = int(matrix[actual, predicted]), int(matrix[actual].sum())
            title = f"{names[actual]} taken for {names[predicted]}: {count} of {total}"
            parts.append(_heat_cell(left + column * CELL, y, count, total, actual == predicted, title))
    width, height = left + CELL * len(chosen) + slanted, top + CELL * len(chosen) + 4
    return (
        f'<svg class="heat" role="img" aria-label="Confusion matrix of {len(chosen)} classes" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(parts)}</svg>'
    )


def _heat_cell(x: int, y: int, count: int, total: int, is_right: bool, title: str) -> str:
    place = f'x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
    ground = f'<rect class="ground" {place}/>'
    if not count:
        return ground
    kind, shade = "right" if is_right else "wrong", 0.12 + 0.6 * count / total
    return (
        f'{ground}<rect class="{kind}" {place} fill-opacity="{shade:.2f}"><title>{escape(title)}</title></rect>'
        f'<text class="count" x="{x + CELL // 2}" y="{y + 22}" text-anchor="middle">{count}</text>'
    )


def _short(text: str, length: int = 32) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Average recall in percent over the average number of proposals a video."""
    width, height, left, right = 640, 240, 40, max(x for x, _ in points)
    places = [(left + x / right * width, 10 + height * (1 - y / 100)) for x, y in points]
    lines = [
        f'<path class="grid" d="M{left} {10 + height * (1 - y / 100):.1f}h{width}"/>'
        f'<text x="{left - 6}" y="{14 + height * (1 - y / 100):.1f}" text-anchor="end">{y}</text>'
        for y in range(0, 101, 25)
    ]
    marks = [
        f'<text x="{left + share * width:.1f}" y="{height + 28}" text-anchor="middle">{share * right:.0f}</text>'
        for share in (0.25, 0.5, 0.75, 1.0)
    ]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return (
        f'<svg class="plot" role="img" aria-label="Recall from {points[0][1]:.1f} to {points[-1][1]:.1f} percent" '
        f'viewBox="0 0 {left + width + 20} {height + 34}">{"".join(lines)}{"".join(marks)}'
        f'<path d="M{path}" fill="none" stroke="var(--accent)" stroke-width="2"/></svg>'
        '<p class="note">Average recall in percent over the average number of proposals a video.</p>'
    )


# Videos and facts ----------------------------------------------------------------------------------------------------


def _changes(result: EvaluationResult, comparison: Comparison) -> str:
    names = result.class_names
    rows = []
    for change in comparison.changes[:LISTED]:
        cells = (change.video, ", ".join(names[i] for i in change.labels), names[change.before], names[change.after])
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    text = (
        f"{len(comparison.changes):,} of {comparison.common:,} videos got another class than from "
        f"{comparison.model or 'the other run'} ({comparison.other})."
    )
    alone = [
        f"{count:,} videos are only in {where}."
        for count, where in ((comparison.only_here, "this run"), (comparison.only_there, "the other one"))
        if count
    ]
    head = "".join(f"<th>{title}</th>" for title in ("Video", "True class", "Before", "Now"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    cut = _cut(len(comparison.changes))
    note = f'<p class="note">{escape(" ".join([text, *alone]))}{cut}</p>'
    return card("Changed predictions", f'<div class="scroll">{table}</div>{note}')


def _cut(count: int) -> str:
    return f" The first {LISTED} are shown; the JSON file has all." if count > LISTED else ""


def _failures(result: EvaluationResult) -> str:
    if not result.failures:
        return ""
    rows = "".join(
        f"<tr><td>{escape(failure.video)}</td><td>{escape(failure.reason)}</td></tr>"
        for failure in result.failures[:LISTED]
    )
    head = f"<tr><th>{result.unit.capitalize()}</th><th>Reason</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    note = f'<p class="note">They are left out of the metrics.{_cut(len(result.failures))}</p>'
    return card(
        f"{len(result.failures):,} {result.unit}s could not be read", f'<div class="scroll">{table}</div>{note}'
    )


def _facts(result: EvaluationResult) -> str:
    model = result.model
    time = f"{result.seconds:,.1f} s, {result.seconds_per_video:.3g} s per {result.unit}"
    shared = f", added up over {result.processes} processes" if result.processes > 1 else ""
    protocol = {
        "Network input": escape(describe_input(result.config)),
        "Views": escape(result.protocol),
        "Resized to": escape(_resize(result.config) if result.config["modality"] not in ("audio", "feature") else ""),
        "Data stored as": escape(
            f"{model['resolution']}, for the published numbers" if model.get("resolution") else ""
        ),
        "Time": escape(f"{time} on {result.device}{shared}"),
        "Numbers": escape(result.precision),
        "From saved scores": f"{result.resumed:,} {result.unit}s" if result.resumed else "",
    }
    facts = {
        "Name": escape(model["full_name"]),
        "Parameters": f"{model['params'] / 1e6:.1f} million",
        "Published": "<br>".join(
            escape(describe_metrics(row) + (f" – {row['origin']}" if row.get("origin") else ""))
            for row in model.get("metrics") or ()
        ),
        "Weights": escape(result.weights),
        "Licence": escape(model.get("license") or ""),
        "Paper": web_link(model.get("paper") or ""),
        "Notes": escape(model.get("notes") or ""),
    }
    return f'<div class="pair">{card("Protocol", fact_list(protocol))}{card("Model", fact_list(facts))}</div>'


def _resize(config: Mapping[str, Any]) -> str:
    scale = config["resize"]
    if scale is None:
        return "left as they are"
    size = f"short side {scale}" if isinstance(scale, int) else f"as large as fits in {scale[0]} x {scale[1]}"
    return f"{size}, {config['interpolation']} ({config['resize_backend']})"
