"""One self-contained HTML page on who does what in a video, in the look of the page on predictions."""

from __future__ import annotations

import os
from html import escape

from ..report import PAGE, STYLE, card, caveat_note, clock, fact_list, image, model_card, percent, video_facts
from .drawing import colour_of
from .video import Findings, PersonActions

LISTED = 40  # persons that have a row of their own
ROW, WIDTH = 12, 1000  # of an action over time, units of the drawing

DETECTION_STYLE = """
.person + .person { margin-top: 1.5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.person h4 { margin: 0 0 .625rem; font-size: 1rem; font-weight: 600; display: flex; gap: .625rem; align-items: center;
  flex-wrap: wrap; }
.person h4 small { font-weight: 400; font-size: .875rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.swatch { width: .875rem; height: .875rem; border-radius: .25rem; flex: none; }
.lanes { list-style: none; display: grid; gap: .5rem; }
.lanes li { display: grid; grid-template-columns: minmax(0, 15rem) minmax(3rem, 1fr) 4rem; gap: .25rem 1rem;
  align-items: center; font-size: .9375rem; }
.lanes .name { overflow-wrap: anywhere; line-height: 1.3; }
.lanes .value { text-align: right; font-variant-numeric: tabular-nums; }
.lanes svg { display: block; width: 100%; border-radius: .25rem; background: var(--track); }
.lanes rect { fill: var(--accent); }
.lanes .ends { grid-column: 2; margin: 0; }
.frames { grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
@media (max-width: 40rem) {
  .lanes li { grid-template-columns: minmax(0, 1fr) 4rem; }
  .lanes svg, .lanes .ends { grid-row: 2; grid-column: 1 / -1; }
}
"""


def detection_report(found: Findings, topk: int = 3, least: float = 0.3) -> str:
    """HTML text of a page on one video: its persons, their ``topk`` actions over time, and pictures.

    Of every person at least the most probable action is shown, of the others those that reach ``least`` at any moment.
    Pictures are embedded; findings made with ``max_pictures=0`` have none to show.
    """
    from .. import __version__

    persons = found.persons()
    body = [caveat_note(found.caveat), _head(found, persons), _persons(found, persons, topk, least)]
    if found.pictures:
        body.append(card("Key frames", _key_frames(found)))
    body.append(card("Video and timing", fact_list(_facts(found))))
    body.append(model_card(found.model, found.weights))
    return PAGE.substitute(
        title=escape(f"{_count(persons)} – {_file(found)}"),
        style=STYLE + DETECTION_STYLE,
        body="\n".join(part for part in body if part),
        version=escape(__version__),
    )


def _head(found: Findings, persons: list[PersonActions]) -> str:
    poster = ""
    if found.poster is not None:
        picture = image(found.poster, "The moment with most persons, with their boxes and actions", quality=85)
        poster = f'<figure class="poster">{picture}</figure>'
    surest = max((person.top(1)[0] for person in persons), key=lambda row: row[1], default=None)
    share = f"<strong>{percent(surest[1])}</strong> {escape(surest[0])}, the surest action" if surest else ""
    return (
        f'<header class="lead"><div><p class="file">{escape(_file(found))}</p><h1>{_count(persons)}</h1>'
        f'<p class="share">{share}</p><p class="by">{escape(found.model["full_name"])}</p></div>{poster}</header>'
    )


def _count(persons: list[PersonActions]) -> str:
    return f"{len(persons) or 'No'} person{'s' * (len(persons) != 1)}"


def _file(found: Findings) -> str:
    return os.path.basename(os.path.normpath(found.video["path"])) or found.video["path"]


# Persons over time ---------------------------------------------------------------------------------------------------


def _persons(found: Findings, persons: list[PersonActions], topk: int, least: float) -> str:
    if not persons:
        note = "Nobody was found: lower the score that a person needs, or give boxes of your own."
        return card("Persons", f'<p class="note">{note}</p>')
    rows = "".join(_person(found, person, topk, least) for person in persons[:LISTED])
    cut = f" The {LISTED} who were seen most often are shown." if len(persons) > LISTED else ""
    note = f"The shade is the probability at that moment; the number is the highest one.{cut}"
    return card("Persons and their actions over time", f'{rows}<p class="note">{note}</p>')


def _person(found: Findings, person: PersonActions, topk: int, least: float) -> str:
    fps, total = found.video["fps"], found.video["frames"]
    actions = person.top(topk, least) or person.top(1)
    lanes = "".join(_lane(found, person, label, value) for label, value in actions)
    red, green, blue = colour_of(person.number)
    span = f"{clock(person.frames[0], fps)} to {clock(person.frames[-1], fps)}, {len(person.frames)} moments"
    ends = clock(0, fps), clock(total if fps > 0 else total - 1, fps)
    scale = f'<li aria-hidden="true"><p class="scale ends"><span>{ends[0]}</span><span>{ends[1]}</span></p></li>'
    return (
        f'<div class="person"><h4><span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
        f'Person {person.number} <small>{span}</small></h4><ul class="lanes">{lanes}{scale}</ul></div>'
    )


def _lane(found: Findings, person: PersonActions, label: str, value: float) -> str:
    """One action over the length of the video: a field for each moment, as dark as it is probable."""
    total = max(1, found.video["frames"])
    step = found.moments[1].frame - found.moments[0].frame if len(found.moments) > 1 else total
    column = person.probabilities[:, person.labels.index(label)]
    fields = []
    for frame, probability in zip(person.frames, column, strict=True):
        x, width = frame * WIDTH / total, min(step, total - frame) * WIDTH / total
        fields.append(f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="{ROW}" fill-opacity="{probability:.2f}"/>')
    alt = f"{label}, from {percent(float(column.min()))} to {percent(float(column.max()))}"
    return (
        f'<li><span class="name">{escape(label)}</span><svg role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {WIDTH} {ROW}" height="{ROW}" preserveAspectRatio="none">{"".join(fields)}</svg>'
        f'<span class="value">{percent(value)}</span></li>'
    )


# Pictures and facts --------------------------------------------------------------------------------------------------


def _key_frames(found: Findings) -> str:
    fps, items = found.video["fps"], []
    for number, picture in found.pictures:
        alt = f"Frame {number} with boxes and actions"
        caption = f"<figcaption>{escape(clock(number, fps))}</figcaption>"
        items.append(f"<li><figure>{image(picture, alt)}{caption}</figure></li>")
    peopled = sum(bool(moment.numbers) for moment in found.moments)
    note = f'<p class="note">{len(items)} of {peopled} moments with persons.</p>' if len(items) < peopled else ""
    return f'<ol class="strip frames">{"".join(items)}</ol>{note}'


def _facts(found: Findings) -> dict[str, str]:
    return video_facts(found.video) | {
        "Looked at": f"{len(found.moments)} moments, one each {found.every:g} s",
        "Person boxes": str(sum(len(moment.numbers) for moment in found.moments)),
        "Time": f"{found.seconds:.1f} s on {escape(found.device)}",
    }
