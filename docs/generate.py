"""The parts of the documentation that follow from the catalog: the plots, and the tables between ``generated`` marks.

``python docs/generate.py`` writes them, ``python docs/generate.py --check`` says whether they are up to date.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from videozoo import catalog, names
from videozoo.catalog import Entry
from videozoo.data import resolve_data_config
from videozoo.evaluation.overview import log_ticks, nice_ticks
from videozoo.model_cards import measure, words
from videozoo.prediction import clip_count

PAGES = Path(__file__).parent / "pages"
IMAGES = PAGES / "img"
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "speed.csv"
REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 880, 520, 56, 170, 20, 48  # of the plot
COLOURS = (
    *("#1f6f78", "#c2571a", "#6a4fb3", "#2e8b3d", "#b8336a", "#1d5fbf", "#8a6d00"),
    *("#7a7a7a", "#d1495b", "#00897b", "#5d4037", "#9c27b0", "#33691e"),
)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#3b3f45}.grid{stroke:#e3e1dc}.axis{font-size:13px}"
    ".best{fill:none;stroke:#9a9a94;stroke-dasharray:4 4}"
)


class Point(NamedTuple):
    """A published accuracy and what it costs."""

    entry: Entry
    top1: float
    views: int
    cost: float
    """Multiply-adds of a whole video in thousands of millions, or milliseconds of a clip."""

    @property
    def more_data(self) -> bool:
        """Whether it has learnt from more than ImageNet-1k and the data set itself."""
        parts = set(self.entry.tag.split("_")[1:])
        web = {"omni", "googleimage", "webimage", "insvideo", "kineticsraw"}
        return self.entry.pretrain not in ("", "in1k", self.entry.dataset) or bool(parts & web)


def points() -> list[Point]:
    """Classifiers of colour videos on Kinetics-400, those of the published protocol alone."""
    found = []
    for entry in catalog.entries().values():
        if entry.dataset != "k400" or entry.modality != "rgb" or entry.top1 is None or entry.metrics[0].get("protocol"):
            continue
        config = resolve_data_config(pretrained_cfg=entry.to_dict())
        views = clip_count(config) * max(1, config["crops"])
        found.append(Point(entry, entry.top1, views, views * measure(entry)[1] / 1e9))
    return sorted(found, key=lambda point: (point.cost, -point.top1, point.entry.full_name))


def measured_points() -> list[Point]:
    """Entries with a published accuracy on Kinetics-400 whose speed was measured after ``videozoo.optimize``."""
    found = []
    with MEASURED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kind = (row["bench"], row["batch"], row["library"], row["precision"])
            entry = catalog.find_entry(row["entry"])
            if kind == ("infer", "1", "videozoo optimize", "float32") and entry is not None and entry.top1 is not None:
                found.append(Point(entry, entry.top1, 1, float(row["median_ms"])))
    return sorted(found, key=lambda point: point.cost)


def frontier(rows: Iterable[Point]) -> list[Point]:
    """Those that no other one beats at the same cost or less; ``rows`` in the order of their cost."""
    best: list[Point] = []
    for point in rows:
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


# Plot ----------------------------------------------------------------------------------------------------------------


def accuracy_plot(rows: Sequence[Point], title: str, unit: str) -> str:
    """SVG: published top-1 accuracy on Kinetics-400 over what it costs, on a logarithmic scale."""
    x_ticks, y_ticks = log_ticks([p.cost for p in rows]), nice_ticks([p.top1 for p in rows], 8)
    low, high = math.log(x_ticks[0]), math.log(x_ticks[-1])

    def place(point: Point) -> tuple[float, float]:
        x = LEFT + (math.log(point.cost) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point.top1 - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - BOTTOM - TOP)
        return x, y

    right = WIDTH - RIGHT
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fdfdfc"/>']
    for tick in y_ticks:
        y = HEIGHT - BOTTOM - (tick - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - BOTTOM - TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = LEFT + (math.log(tick) - low) / (high - low) * (right - LEFT)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{title}</text>')
    parts.append('<text class="axis" transform="translate(16 250) rotate(-90)" text-anchor="middle">top-1, %</text>')
    best = frontier(p for p in rows if not p.more_data)
    line = "L".join("{:.1f} {:.1f}".format(*place(point)) for point in best)
    parts += [f'<path class="best" d="M{line}"/>', *_dots(rows, place, unit), *_legend(rows)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _families(rows: Iterable[Point]) -> list[str]:
    there = {point.entry.family for point in rows}
    return [family for family in words()["families"] if family in there]


def _dots(rows: Sequence[Point], place: Callable[[Point], tuple[float, float]], unit: str) -> Iterator[str]:
    colours = dict(zip(_families(rows), COLOURS, strict=False))
    for point in rows:
        x, y = place(point)
        colour = colours[point.entry.family]
        fill = "#fdfdfc" if point.more_data else colour
        title = f"{point.entry.full_name}: {point.top1:.2f} %, {point.cost:.4g} {unit}"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.5">'
        yield f"<title>{escape(title)}</title></circle>"


def _legend(rows: Sequence[Point]) -> Iterator[str]:
    left = WIDTH - RIGHT + 20
    for number, (family, colour) in enumerate(zip(_families(rows), COLOURS, strict=False)):
        y, title = TOP + 12 + 20 * number, words()["families"][family]["title"]
        yield f'<circle cx="{left}" cy="{y}" r="4.5" fill="{colour}"/>'
        yield f'<text x="{left + 12}" y="{y + 4}">{escape(title)}</text>'
    y += 34
    yield f'<circle cx="{left}" cy="{y}" r="4.5" fill="#fdfdfc" stroke="#3b3f45" stroke-width="1.5"/>'
    yield f'<text x="{left + 12}" y="{y + 4}">more training data</text>'


# Tables --------------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with an empty line before and after it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def _costs(rows: Iterable[Point]) -> str:
    header = ("entry", "top-1, %", "GFLOPs of a video", "views", "parameters, M")
    cells = (
        (p.entry.full_name, f"{p.top1:.2f}", f"{p.cost:,.0f}", str(p.views), f"{measure(p.entry)[0] / 1e6:.1f}")
        for p in rows
    )
    return table(header, ((f"`{name}`", *rest) for name, *rest in cells))


def best_table() -> str:
    """Entries that are the most accurate ones for what they cost."""
    return _costs(frontier(p for p in points() if not p.more_data))


def more_table() -> str:
    """The same among those that have learnt from more data, from where they beat the others."""
    best = frontier(p for p in points() if not p.more_data)
    return _costs(p for p in frontier(p for p in points() if p.more_data) if p.top1 > best[-1].top1)


def published_name(entry: Entry) -> str:
    """The name of the source that ``create_model`` takes for this entry: its configuration's, else its file's."""
    file = entry.url.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    known = (name for name in (*entry.upstream, file) if name and catalog.find_entry(name) is entry)
    return next(known, "")


def _names(*sources: str) -> str:
    entries = [e for e in catalog.entries().values() if e.tag.split("_")[0] in sources and published_name(e)]
    entries.sort(key=lambda e: (e.task != "recognition", names.natural_key(published_name(e))))
    return table(("name there", "entry"), ((f"`{published_name(e)}`", f"`{e.full_name}`") for e in entries))


def untrained_table() -> str:
    """Configurations that were published without weights."""
    rows = ((f"`{name}`", f"`{target}`") for name, target in catalog.configurations().items())
    return table(("name there", "network and data set"), rows)


def dataset_table() -> str:
    """What each data set is called, where it comes from, and which of its files `videozoo data prepare` reads."""
    rows = []
    for key, facts in catalog.datasets().items():
        where = f"[site]({facts['homepage']})" if "homepage" in facts else f"`{facts['made_by']}`"
        counts = facts.get("counts", {})
        sizes = ", ".join(f"{split} {count:,}" for split, count in counts.items()) or "-"
        rows.append((facts["title"], f"`{key}`", where, _official(facts), sizes, facts["terms"]))
    return table(("data set", "name", "from", "files of the authors, for val", "videos", "terms"), rows)


def _official(facts: dict) -> str:
    """The authors' files of the validation split (test, where that is measured), one name each."""
    official = facts.get("files", {}).get("official", {})
    split = facts.get("published_split", "test" if "val" not in official else "val")
    patterns = [p.format(fold=1, split=split) for role in (split, "classes") for p in official.get(role, ())[:1]]
    listed = [p.format(split=split) for p in facts.get("files", {}).get("lists", {}).get("videos", ())[:1]]
    return ", ".join(f"`{p}`" for p in patterns or listed) or "-"


REGIONS = {
    "best": best_table,
    "more": more_table,
    "mma0": lambda: _names("mma0"),
    "mma1": lambda: _names("mma1"),
    "fair": lambda: _names("fair"),
    "others": lambda: _names("ptv", "tv"),
    "untrained": untrained_table,
    "datasets": dataset_table,
}


def outputs() -> dict[Path, str]:
    """Every file with generated parts, with the text that it should have."""
    texts = {
        IMAGES / "accuracy_compute.svg": accuracy_plot(points(), "GFLOPs of a video, all views of the test", "GFLOPs"),
        IMAGES / "accuracy_speed.svg": accuracy_plot(measured_points(), "milliseconds of a clip", "ms"),
    }
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "<!-- generated: " in text:
            texts[page] = REGION.sub(lambda match: match[1] + REGIONS[match[2]]() + match[3], text)
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    """Write what has changed, or with ``--check`` name it: 0 up to date, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what is out of date")
    args = parser.parse_args(argv)
    stale = [(path, text) for path, text in outputs().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path, text in stale:
        if args.check:
            print(f"{path.name} is out of date: run python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
