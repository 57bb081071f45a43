"""The page of ``speed.py``: bars of time, accuracy against latency, and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from videozoo.catalog import find_entry
from videozoo.evaluation.overview import accuracy_plot
from videozoo.evaluation.report import make_page
from videozoo.machine import describe_machine
from videozoo.report import card

OURS = "videozoo"
TITLES = {
    "infer": "Inference",
    "train": "Training step",
    "memory-infer": "Memory of inference",
    "memory-train": "Memory of training",
}

Row = Mapping[str, str]


def speed_report(rows: Sequence[Row]) -> str:
    """HTML text of a page on all rows of a table, one card for each case, kind of measurement and batch."""
    body = [
        "<header><h1>Speed and memory</h1>"
        '<p class="by">Networks with the same weights on the same clips, in turns in one run; shorter bars are better. '
        "The factor is against the best of the other libraries in float32.</p></header>"
    ]
    for bench, title in TITLES.items():
        kind = [row for row in rows if row["bench"] == bench]
        for batch in sorted({int(row["batch"]) for row in kind}):
            chosen = [row for row in kind if int(row["batch"]) == batch]
            cases = dict.fromkeys(row["case"] for row in chosen)
            parts = [_bars(case, [row for row in chosen if row["case"] == case]) for case in cases]
            body.append(card(f"{title}, batch {batch}", "".join(parts)))
    body.append(_plot(rows))
    machines = dict.fromkeys(f"{describe_machine(row)}; {row['date']}" for row in rows)
    body.append(card("Measured on", "".join(f'<p class="note">{escape(text)}</p>' for text in machines)))
    return make_page("Speed of video models", body)


def _amount(row: Row) -> float:
    return float(row["median_ms"] or row["peak_mib"])


def _bars(case: str, rows: Sequence[Row]) -> str:
    longest = max(_amount(row) for row in rows)
    items = []
    for row in rows:
        name = row["library"] + (f" {row['precision']}" if row["precision"] != "float32" else "")
        unit = "ms" if row["median_ms"] else "MiB"
        facts = [f"{_amount(row):.0f} {unit}"]
        facts += [f"quartiles {100 * float(row['spread']):.0f} % apart"] if row["spread"] else []
        facts += [f"output differs by {float(row['difference']):.0e}"] if row["difference"] else []
        facts += ["WRONG OUTPUT"] if row["agrees"] == "no" else []
        is_ours = row["library"].startswith(OURS)
        style = f"width:{100 * _amount(row) / longest:.2f}%" + (";background:var(--accent)" if is_ours else "")
        factor = f"{float(row['ratio']):.2f} ×" if is_ours and row["ratio"] else ""
        items.append(
            f'<li><span class="name">{escape(name)} <small>{escape(", ".join(facts))}</small></span>'
            f'<span class="track" aria-hidden="true"><span class="fill" style="{style}"></span></span>'
            f'<span class="value">{factor}</span></li>'
        )
    shape = rows[0]["input"].replace("x", " × ")
    head = f'<p class="note"><strong>{escape(case)}</strong>, clips of {escape(shape)}</p>'
    return f'{head}<ol class="bars plain">{"".join(items)}</ol>'


def _plot(rows: Sequence[Row]) -> str:
    """Published top-1 accuracy over the measured time of one clip, of our networks as they are created."""
    points, lines = [], []
    for row in rows:
        if (row["library"], row["precision"], row["bench"], row["batch"]) != (OURS, "float32", "infer", "1"):
            continue
        entry = find_entry(row["entry"])
        if entry is None or entry.top1 is None:
            continue
        number = len(points) + 1
        points.append((number, entry.full_name, float(row["median_ms"]), entry.top1))
        lines.append(
            f'<tr><td class="number">{number}</td><td>{escape(entry.full_name)}</td>'
            f'<td class="number">{entry.top1:.2f}</td><td class="number">{float(row["median_ms"]):.0f}</td></tr>'
        )
    if len(points) < 2:
        return ""
    note = "Published accuracy is of the whole test, of many views; time is of one clip as measured here."
    label = "Published top-1 accuracy against measured milliseconds of a clip"
    plot = accuracy_plot(points, "Milliseconds of a clip", "ms a clip", label, note)
    head = '<th></th><th>Model</th><th class="number">Published top-1</th><th class="number">ms</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return card("Accuracy against latency", plot + table)
