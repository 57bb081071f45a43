"""One self-contained HTML page for predictions: it needs no network and no script, and all text in it is escaped."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np

from . import catalog
from .data import resolve_data_config
from .prediction import Prediction, describe_input, describe_protocol, times

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="videozoo">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
<footer>Made with videozoo $version.</footer>
</body>
</html>
""")

STYLE = """
:root { --ground: #fbfaf8; --card: #ffffff; --ink: #1d1f23; --soft: #5f646d; --line: #e3e1dc; --track: #eeece7;
  --accent: #1f6f78; --accent-soft: #8fbcc0; --warn-ground: #fdf1dc; --warn-ink: #7a4a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #141618; --card: #1c1f22; --ink: #eceae6; --soft: #a0a5ad;
  --line: #2d3135; --track: #272b2f; --accent: #58b4bd; --accent-soft: #34666b; --warn-ground: #3a2c12;
  --warn-ink: #f2cf94; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; }
main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
main { padding-top: 2.25rem; }
footer { padding-top: 1.5rem; padding-bottom: 2.5rem; color: var(--soft); font-size: .8125rem; }
a { color: var(--accent); text-underline-offset: .15em; }
h1, h2, h3, p, dl, dd, figure, ol, ul { margin: 0; padding: 0; }
h1, h2.label { font-size: clamp(1.75rem, 5vw, 2.75rem); line-height: 1.1; font-weight: 650; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2.label { font-size: clamp(1.5rem, 4vw, 2.125rem); }
h3 { font-size: .8125rem; font-weight: 600; color: var(--soft); margin-bottom: .75rem; }
.file { color: var(--soft); font-size: .9375rem; margin-bottom: .5rem; overflow-wrap: anywhere; }
.share { font-size: 1.125rem; margin-top: .5rem; color: var(--soft); }
.share strong { color: var(--accent); font-weight: 650; font-variant-numeric: tabular-nums; }
.by { color: var(--soft); font-size: .9375rem; margin-top: .5rem; overflow-wrap: anywhere; }
.caveat { background: var(--warn-ground); color: var(--warn-ink); border-radius: .5rem; padding: .75rem 1rem;
  margin-bottom: 1.5rem; font-size: .9375rem; }
.lead { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 5fr); gap: 2rem; align-items: center; }
.poster { position: relative; border-radius: .625rem; overflow: hidden; background: var(--track); line-height: 0; }
.poster img { width: 100%; height: auto; max-height: 26rem; object-fit: contain; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .625rem; padding: 1.25rem;
  margin-top: 1.25rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem;
  margin-top: 1.25rem; }
.pair > .card { min-width: 0; margin-top: 0; }
.bars { list-style: none; display: grid; gap: .5rem; }
.bars li { display: grid; grid-template-columns: minmax(0, 15rem) minmax(3rem, 1fr) 4rem; gap: .25rem 1rem;
  align-items: center; font-size: .9375rem; }
.bars .name { overflow-wrap: anywhere; line-height: 1.3; }
.bars .track { background: var(--track); border-radius: .25rem; height: .75rem; overflow: hidden; }
.bars .fill { display: block; height: 100%; background: var(--accent-soft); border-radius: .25rem; min-width: 2px; }
.bars li:first-child .fill { background: var(--accent); }
.bars li:first-child .name { font-weight: 600; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }
.strip { list-style: none; display: grid; gap: .625rem;
  grid-template-columns: repeat(auto-fill, minmax(6.25rem, 1fr)); }
.strip img { display: block; width: 100%; height: auto; border-radius: .3125rem; background: var(--track); }
.strip figcaption { font-size: .75rem; color: var(--soft); margin-top: .1875rem; font-variant-numeric: tabular-nums; }
.time { display: block; width: 100%; }
.time path { stroke-width: 2; vector-effect: non-scaling-stroke; }
.time .row { stroke: var(--track); } .time .span { stroke: var(--accent-soft); } .time .tick { fill: var(--accent); }
.scale { display: flex; justify-content: space-between; font-size: .75rem; color: var(--soft); margin-top: .375rem;
  font-variant-numeric: tabular-nums; }
.crops { grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); max-width: 32rem; }
.note { font-size: .875rem; color: var(--soft); margin-top: .75rem; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .375rem 1.25rem; font-size: .9375rem; }
.facts dt { color: var(--soft); } .facts dd { overflow-wrap: anywhere; }
.contents { list-style: none; font-size: .9375rem; }
.contents li { display: flex; gap: 1rem; justify-content: space-between; padding: .4375rem 0;
  border-top: 1px solid var(--line); }
.contents li:first-child { border-top: 0; }
.contents a { overflow-wrap: anywhere; } .contents span { text-align: right; }
section.video + section.video, .contents-card + section.video { margin-top: 3.5rem; }
@media (max-width: 40rem) {
  main { padding-top: 1.25rem; }
  .lead { grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
  .bars li { grid-template-columns: minmax(0, 1fr) 4rem; }
  .bars .track { grid-row: 2; grid-column: 1 / -1; height: .5rem; }
  .bars { gap: .75rem; }
  .strip { grid-template-columns: repeat(auto-fill, minmax(5.25rem, 1fr)); }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; } .facts dd { margin-bottom: .625rem; }
  .card { padding: 1rem; }
}
@media print { body { background: #fff; } .card, .lead { break-inside: avoid; } }
"""


def prediction_report(predictions: Prediction | Sequence[Prediction], topk: int = 10) -> str:
    """HTML text of a page on one prediction, or on several videos by one model, with the ``topk`` scores of each.

    Pictures are embedded. Predictions made with ``max_thumbnails=0`` have none to show; an empty sequence is a
    ValueError.
    """
    from . import __version__

    rows = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    if not rows:
        raise ValueError("a report needs at least one prediction.")
    body = [caveat_note(rows[0].caveat)]
    if len(rows) > 1:
        body.append(_contents(rows))
        title = f"{len(rows)} videos – {rows[0].model['full_name']}"
    else:
        title = f"{rows[0].top(1)[0][1]} – {_file(rows[0])}"
    body += [_video(row, topk, number, "h1" if len(rows) == 1 else "h2") for number, row in enumerate(rows, 1)]
    body.append(model_card(rows[0].model, rows[0].weights))
    text = "\n".join(part for part in body if part)
    return PAGE.substitute(title=escape(title), style=STYLE, body=text, version=escape(__version__))


# Parts ---------------------------------------------------------------------------------------------------------------


def caveat_note(text: str) -> str:
    """Why the labels below should not be trusted; empty for an empty text."""
    if not text:
        return ""
    return f'<p class="caveat" role="note"><strong>Do not trust these labels.</strong> {escape(text)}</p>'


def _contents(rows: Sequence[Prediction]) -> str:
    items = []
    for number, row in enumerate(rows, 1):
        _, label, probability = row.top(1)[0]
        link = f'<a href="#video-{number}">{escape(_file(row))}</a>'
        items.append(f"<li>{link}<span>{escape(label)} {percent(probability)}</span></li>")
    head = f'<header><h1>{len(rows)} videos</h1><p class="by">by {escape(rows[0].model["full_name"])}</p></header>'
    return f'{head}<nav class="card contents-card" aria-label="Videos"><ul class="contents">{"".join(items)}</ul></nav>'


def _video(row: Prediction, topk: int, number: int, heading: str) -> str:
    _, label, probability = row.top(1)[0]
    share = "probability, each class on its own" if row.model.get("multi_label") else "probability"
    poster = ""
    if row.poster is not None:
        picture = image(row.poster, "The middle one of the sampled frames", quality=85)
        poster = f'<figure class="poster">{picture}</figure>'
    return f"""<section class="video" id="video-{number}">
<header class="lead">
<div>
<p class="file">{escape(_file(row))}</p>
<{heading} class="label">{escape(label)}</{heading}>
<p class="share"><strong>{percent(probability)}</strong> {share}</p>
<p class="by">{escape(row.model["full_name"])}</p>
</div>
{poster}
</header>
{card("Top scores", _bars(row, topk))}
{card("Sampled frames", _strip(row)) if row.thumbnails else ""}
{card("How it was sampled", _timeline(row) + _protocol_note(row))}
<div class="pair">{card("What the network sees", _crops(row)) if row.boxes else ""}
{card("Video and timing", fact_list({**video_facts(row.video), **_timings(row)}))}</div>
</section>"""


def card(title: str, content: str) -> str:
    """A titled box around HTML."""
    return f'<section class="card"><h3>{escape(title)}</h3>{content}</section>'


def _bars(row: Prediction, topk: int) -> str:
    items = [
        f'<li><span class="name">{escape(label)}</span>'
        '<span class="track" aria-hidden="true">'
        f'<span class="fill" style="width:{100 * probability:.2f}%"></span></span>'
        f'<span class="value">{percent(probability)}</span></li>'
        for _, label, probability in row.top(topk)
    ]
    return f'<ol class="bars">{"".join(items)}</ol>'


def _strip(row: Prediction) -> str:
    items = []
    for number, picture in row.thumbnails:
        place = clock(number, row.video["fps"])
        alt = f"Frame {number}" + (f" at {place}" if row.video["fps"] > 0 else "")
        items.append(f"<li><figure>{image(picture, alt)}<figcaption>{escape(place)}</figcaption></figure></li>")
    sampled = len(np.unique(row.indices))
    note = f'<p class="note">{len(items)} of {sampled} sampled frames.</p>' if len(items) < sampled else ""
    return f'<ol class="strip">{"".join(items)}</ol>{note}'


def _timeline(row: Prediction) -> str:
    """A line for each clip over the length of the video, with a tick at each sampled frame."""
    total, step, width = max(1, row.video["frames"]), 14, 1000
    parts = []
    for i, clip in enumerate(row.indices.reshape(len(row.indices), -1)):
        y = step * i + step / 2
        x = (np.unique(clip) + 0.5) * width / total
        parts.append(f'<path class="row" d="M0 {y}H{width}"/>')
        if len(x) > 1:
            parts.append(f'<path class="span" d="M{x[0]:.1f} {y}H{x[-1]:.1f}"/>')
        parts += [f'<rect class="tick" x="{v - 1:.1f}" y="{y - 4}" width="2" height="8"/>' for v in x]
    height = step * len(row.indices)
    fps = row.video["fps"]
    ends = [clock(0, fps), clock(total if fps > 0 else total - 1, fps)]
    alt = f"{len(row.indices)} clips, frames {row.indices.min()} to {row.indices.max()} of {total}"
    return (
        f'<svg class="time" role="img" aria-label="{alt}" viewBox="0 0 {width} {height}" height="{height}" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg>'
        f'<div class="scale" aria-hidden="true"><span>{ends[0]}</span><span>{ends[1]}</span></div>'
    )


def _protocol_note(row: Prediction) -> str:
    text = f"{describe_protocol(row.config, len(row.indices))}. One input of the network: {describe_input(row.config)}."
    counts = f" {row.views} inputs in all." if row.views > 1 else ""
    repeats = " The video is too short for this, so frames repeat." if row.repeats else ""
    return f'<p class="note">{_words(text[0].upper() + text[1:] + counts + repeats)}</p>'


def _crops(row: Prediction) -> str:
    """The poster as each crop shows it to the network."""
    count, side = row.config["crops"], row.config["size"]
    items = []
    for number, (x, y, width, height) in enumerate(row.boxes, 1):
        picture = image(row.poster[y : y + height, x : x + width], f"Crop {number} of the middle frame")
        items.append(f"<li>{picture}</li>")
    what = f"{count} crops" if count > 1 else "The centre crop"
    width, height = row.frame_size
    note = f"{what} of {side} × {side} from frames of {width} × {height} pixels"
    mirrored = ", half of them mirrored" if count == 10 else ""
    return f'<ul class="strip crops">{"".join(items)}</ul><p class="note">{note}{mirrored}.</p>'


# Facts ---------------------------------------------------------------------------------------------------------------


def video_facts(video: Mapping[str, Any]) -> dict[str, str]:
    """Path, size and length of a video (path, width, height, fps, frames), for :func:`fact_list`."""
    seconds = times([video["frames"]], video["fps"])
    length = f"{video['frames']} frames" + (f", {seconds[0]:.2f} s at {video['fps']:.6g} fps" if seconds else "")
    return {"Video": escape(video["path"]), "Size": f"{video['width']} × {video['height']}", "Length": length}


def _timings(row: Prediction) -> dict[str, str]:
    parts = {"Decoding": "decode", "Transforms": "transform", f"Network on {row.device}": "model"}
    return {escape(title): f"{row.seconds[key]:.2f} s" for title, key in parts.items()}


def model_card(model: Mapping[str, Any], weights: str) -> str:
    """What is known of a model, from :func:`~videozoo.prediction.model_facts`."""
    config = resolve_data_config(pretrained_cfg=model)  # the checkpoint's own, where row.config may be its short form
    facts = {
        "Name": escape(model["full_name"]),
        "Architecture": escape(str(model.get("architecture", ""))),
        "Parameters": f"{model['params'] / 1e6:.1f} million",
        "Classes": escape(_classes(model)),
        "Input": _words(describe_input(config)),
        "Test protocol": _words(describe_protocol(config)),
        "Published": _published(model),
        "Pretraining": escape(model.get("pretrain") or ""),
        "Weights": escape(weights),
        "Licence": escape(model.get("license") or ""),
        "Paper": web_link(model.get("paper") or ""),
        "Source": web_link(model.get("origin_url") or ""),
        "Notes": escape(model.get("notes") or ""),
    }
    return card("Model", fact_list(facts))


def _classes(model: Mapping[str, Any]) -> str:
    title = catalog.datasets().get(model.get("dataset", ""), {}).get("title", "")
    return f"{model['num_classes']}" + (f", {title}" if title else "")


def _published(model: Mapping[str, Any]) -> str:
    """Published results, each with the protocol where it is another one, and where it was published."""
    lines = []
    for metrics in model.get("metrics") or ():
        text = describe_metrics(metrics)
        if metrics.get("origin"):
            text += f", from {metrics['origin']}"
        lines.append(_words(text))
    return "<br>".join(lines)


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Published numbers in words: "top-1 73.02 %, top-5 90.77 % (25 segments x 3 crops)"."""
    names = {"top1": "top-1", "top5": "top-5"}
    numbers = [
        f"{names.get(key, key.replace('_', ' '))} {value:.2f} %"
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(numbers) + (f" ({metrics['protocol']})" if metrics.get("protocol") else "")


def fact_list(facts: Mapping[str, str]) -> str:
    """A list of terms; values are HTML, empty ones are left out."""
    return f'<dl class="facts">{"".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in facts.items() if v)}</dl>'


def web_link(address: str) -> str:
    """A link if the address is one of the web, else the text."""
    if not address.startswith(("https://", "http://")):
        return escape(address)
    return f'<a href="{escape(address)}" rel="noreferrer">{escape(address.split("://", 1)[1])}</a>'


# Pictures and numbers ------------------------------------------------------------------------------------------------


def _data_uri(picture: np.ndarray, quality: int) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image(picture: np.ndarray, alt: str, quality: int = 78) -> str:
    """An embedded picture, uint8 ``(H, W, 3)``."""
    height, width = picture.shape[:2]
    return f'<img src="{_data_uri(picture, quality)}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _file(row: Prediction) -> str:
    return os.path.basename(os.path.normpath(row.video["path"])) or row.video["path"]


def _words(text: str) -> str:
    """Escaped text with a proper multiplication sign."""
    return escape(text).replace(" x ", " × ")


def percent(probability: float) -> str:
    """0.731 as "73.1 %"."""
    return "< 0.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"


def clock(number: int, fps: float) -> str:
    """Time of a frame in the video, its number where the speed is unknown (0)."""
    seconds = times([number], fps)
    if seconds is None:
        return f"frame {number}"
    minutes, rest = divmod(seconds[0], 60)
    return f"{int(minutes)}:{rest:05.2f}"


def write_report(path: str | os.PathLike[str], predictions: Iterable[Prediction], topk: int = 10) -> None:
    """Write :func:`prediction_report` to a file, completely or not at all."""
    from .checkpoint import atomic_path

    text = prediction_report(list(predictions), topk)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
