"""One self-contained HTML page on the segments of videos: a timeline under thumbnails, in the look of predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape

from ..checkpoint import atomic_path
from ..report import PAGE, STYLE, card, caveat_note, clock, fact_list, image, model_card
from .video import Localization

BARS = 20  # segments in the timeline
LISTED = 100  # in the table
ROW, WIDTH = 16, 1000  # units of the drawing

LOCALIZATION_STYLE = """
.film { display: flex; list-style: none; border-radius: .3125rem; overflow: hidden; background: var(--track);
  margin-bottom: .5rem; }
.film li { flex: 1 1 0; min-width: 0; } .film img { display: block; width: 100%; height: 3.5rem; object-fit: cover; }
.segments .row { fill: var(--track); } .segments .bar { fill: var(--accent); }
.ranks { border-collapse: collapse; width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
.ranks th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8125rem; }
.ranks th, .ranks td { padding: .375rem 1rem .375rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.ranks tr:last-child td { border-bottom: 0; }
details summary { cursor: pointer; color: var(--accent); font-size: .9375rem; margin-top: .75rem; }
"""


def localization_report(found: Localization | Sequence[Localization]) -> str:
    """HTML text of a page on the segments of one or several videos by one model; none at all is a ValueError.

    Pictures are embedded; results made with ``max_pictures=0`` have none to show.
    """
    from .. import __version__

    rows = [found] if isinstance(found, Localization) else list(found)
    if not rows:
        raise ValueError("a report needs at least one video.")
    body = [caveat_note(rows[0].caveat)]
    if len(rows) > 1:
        body.append(_contents(rows))
    body += [_video(row, number, "h1" if len(rows) == 1 else "h2") for number, row in enumerate(rows, 1)]
    body.append(model_card(rows[0].model, rows[0].weights))
    title = file_name(rows[0]) if len(rows) == 1 else f"{len(rows)} videos"
    return PAGE.substitute(
        title=escape(f"{title} – {rows[0].model['full_name']}"),
        style=STYLE + LOCALIZATION_STYLE,
        body="\n".join(part for part in body if part),
        version=escape(__version__),
    )


def write_localization_report(path: str | os.PathLike[str], found: Localization | Sequence[Localization]) -> None:
    """Write :func:`localization_report` to a file, completely or not at all."""
    text = localization_report(found)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_name(row: Localization) -> str:
    """The name of a video or file without its folder."""
    return os.path.basename(os.path.normpath(row.source["path"])) or row.source["path"]


def moment(value: float, unit: str) -> str:
    """A time in words: "1:02.50", "frame 375" or "12.5 %"."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    return clock(round(value), 0.0) if unit == "frames" else clock(value, 1.0)


def length_text(row: Localization) -> str:
    """How long a video is, in words."""
    if row.unit == "share":
        return "length not known"
    return f"{row.length:.0f} frames" if row.unit == "frames" else moment(row.length, row.unit)


def _contents(rows: Sequence[Localization]) -> str:
    items = []
    for number, row in enumerate(rows, 1):
        best = _span(row, row.segments[0]) if row.segments else "nothing found"
        link = f'<a href="#video-{number}">{escape(file_name(row))}</a>'
        items.append(f"<li>{link}<span>{escape(best)}</span></li>")
    head = f'<header><h1>{len(rows)} videos</h1><p class="by">by {escape(rows[0].model["full_name"])}</p></header>'
    return f'{head}<nav class="card contents-card" aria-label="Videos"><ul class="contents">{"".join(items)}</ul></nav>'


def _span(row: Localization, segment: tuple[float, float, float, str]) -> str:
    start, end, _, label = segment
    return f"{moment(start, row.unit)} – {moment(end, row.unit)}" + (f" {label}" if label else "")


def _video(row: Localization, number: int, heading: str) -> str:
    count = len(row.segments)
    best = row.segments[0] if row.segments else None
    share = f"<strong>{escape(_span(row, best))}</strong> score {best[2]:.3g}, the best" if best else ""
    title = f"{count} segments" if count != 1 else "1 segment"
    return f"""<section class="video" id="video-{number}">
<header><p class="file">{escape(file_name(row))}</p>
<{heading} class="label">{title if count else "No segment found"}</{heading}>
<p class="share">{share}</p><p class="by">{escape(row.model["full_name"])}</p></header>
{card("The best segments over time", _timeline(row)) if count else ""}
{card("Segments", _table(row)) if count else ""}
{card("How they were found", fact_list(_facts(row)))}
</section>"""


def _timeline(row: Localization) -> str:
    """Thumbnails over the length of the video, and a bar for each segment below, as dark as its score is high."""
    film = "".join(f"<li>{image(picture, f'At {moment(at, row.unit)}')}</li>" for at, picture in row.pictures)
    shown = row.segments[:BARS]
    highest = max(score for _, _, score, _ in shown) or 1.0
    parts = []
    for place, (start, end, score, label) in enumerate(shown):
        x, width = start / row.length * WIDTH, max((end - start) / row.length * WIDTH, 2.0)
        title = f"{_span(row, (start, end, score, label))}, score {score:.3g}"
        parts.append(
            f'<rect class="row" x="0" y="{place * ROW + 2}" width="{WIDTH}" height="{ROW - 4}"/>'
            f'<rect class="bar" x="{x:.1f}" y="{place * ROW + 2}" width="{width:.1f}" height="{ROW - 4}" '
            f'fill-opacity="{0.2 + 0.8 * max(score, 0.0) / highest:.2f}"><title>{escape(title)}</title></rect>'
        )
    height = ROW * len(shown)
    ends = moment(0.0, row.unit), moment(row.length, row.unit)
    return (
        (f'<ol class="film">{film}</ol>' if film else "")
        + f'<svg class="time segments" role="img" aria-label="The {len(shown)} best segments, best first" '
        f'viewBox="0 0 {WIDTH} {height}" height="{height}" preserveAspectRatio="none">{"".join(parts)}</svg>'
        f'<div class="scale" aria-hidden="true"><span>{ends[0]}</span><span>{ends[1]}</span></div>'
    )


def _table(row: Localization) -> str:
    lines = []
    for rank, (start, end, score, label) in enumerate(row.segments[:LISTED], 1):
        cells = [str(rank), moment(start, row.unit), moment(end, row.unit), f"{score:.4g}", label]
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("Rank", "From", "To", "Score", "Label"))
    top, rest = "".join(lines[:10]), "".join(lines[10:])
    table = f'<table class="ranks"><thead><tr>{head}</tr></thead><tbody>'
    more = f"<details><summary>{len(lines) - 10} more</summary>{table}{rest}</tbody></table></details>" if rest else ""
    return f"{table}{top}</tbody></table>{more}"


def _facts(row: Localization) -> dict[str, str]:
    source = row.source
    size = f"{source['width']} × {source['height']}, {source['frames']} frames" if "frames" in source else ""
    return {
        "File": escape(source["path"]),
        "Video": size,
        "Length": escape(length_text(row)),
        "Features": escape(row.features),
        "Remark": escape(row.remark),
        "Time": escape(f"{', '.join(f'{k} {v:.2f} s' for k, v in row.seconds.items())} on {row.device}"),
    }
