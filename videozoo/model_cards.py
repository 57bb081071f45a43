"""MODEL_CARDS.md, written from the catalog: every family with its published entries, data sets and licences.

``python -m videozoo.model_cards > MODEL_CARDS.md`` writes the file, ``python -m videozoo.model_cards --check FILE``
says whether it is up to date. Sizes are measured on the networks themselves, without memory behind their weights.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from . import catalog, names, registry
from .catalog import CatalogError, Entry
from .data import resolve_data_config

PERMISSIVE = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "mit")
METRIC_NAMES = {"top1": "top-1", "top5": "top-5", "mAP": "mAP", "mmit_mAP": "mAP per video"}
COLUMNS = {
    "entry": "---",
    "top-1 / top-5 or other, %": "---:",
    "protocol": "---",
    "params, M": "---:",
    "GFLOPs": "---:",
    "one view": "---",
    "videos stored": "---",
    "pretraining": "---",
    "source": "---",
    "licence": "---",
}

HEAD = """\
# Model cards

<!-- Written by `python -m videozoo.model_cards > MODEL_CARDS.md` from the catalog: change that, not this file. -->

Every published set of weights that `videozoo.create_model(name, pretrained=True)` loads, by family. `videozoo info
NAME` shows all that is known of one entry, its addresses and hashes too.
"""

READING = """\
## How to read the tables

- **entry**: the name for `create_model`: architecture, data set and modality, after the dot the tag, which tells one
  set of weights from another. The first row of a name is its default: the name without the tag means it. `8x8` is
  frames x stride of a clip, `f8` eight frames spread over the video.
- **top-1 / top-5**: in percent, as the source published them; other metrics are named. `videozoo eval NAME --data
  FOLDER` measures them on your copy of the data.
- **protocol**: what the number was published with: the views of a video that are scored and how their scores become
  one. Numbers of different protocols cannot be compared: more views give more accuracy for more time.
- **params, M**: millions of parameters, those of the classifier and of parts that only training uses included.
- **GFLOPs**: of one view, at the size of the test. One multiply-add counts as one, as in the papers; those of
  convolutions, linear layers and matrix products are counted (`torch.utils.flop_counter`, whose count of two for each
  is halved), norms, activations and pooling are not. The cost of a video is this times the number of views.
- **one view**: the input of the network in the test. Where frames are spread over the video, all of them are one view.
- **videos stored**: how the source had prepared the videos for training and test, where it says so.
- **pretraining**: what the weights were initialised from; "none" is training from scratch.
- **source**: who published the weights, with a link to where the numbers come from.
- **licence**: that of the weights, as the source states it; see [Licences](#licences).

The first word of a tag is the source, the others say what is special:
"""

DATA_SETS = """\
`name` is what names of entries and `videozoo data prepare` use. The terms are a summary to the best of our knowledge;
what counts is what the owners say at the official address.
"""

LICENCES = """\
Weights were learnt from videos and images of others. A licence of weights says nothing of the terms of those data,
which their owners set: look at the [data sets](#data-sets) that an entry was trained and pretrained on.
"""


# Words ---------------------------------------------------------------------------------------------------------------


@cache
def words() -> dict[str, Any]:
    """The tables of ``catalog/families.toml``: sources, pretraining, tags, families."""
    path = resources.files("videozoo").joinpath("catalog", "families.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _word(table: str, key: str, where: str) -> Any:
    try:
        return words()[table][key]
    except KeyError:
        raise CatalogError(f"{where}: no words for {key!r}: add it to [{table}] of catalog/families.toml") from None


def _pretraining(key: str, where: str) -> str:
    """The data set behind ``in1k``, ``k400``, ... by its title."""
    return catalog.datasets()[key]["title"] if key in catalog.datasets() else _word("pretraining", key, where)


def _explain_tag_part(part: str, where: str) -> str:
    """What one part of a tag after the source means."""
    if part in words()["pretraining"] or part in catalog.datasets():
        return f"pretrained on {_pretraining(part, where)}"
    return _word("tags", part, where)


# Sizes ---------------------------------------------------------------------------------------------------------------


def input_shape(entry: Entry) -> tuple[int, ...]:
    """Shape of one view in the entry's test, with the batch axis: ``(1, C, T, H, W)``, audio ``(1, 1, T, F)``."""
    if entry.modality == "feature":
        return (1, entry.in_chans, entry.sampling["frames"])
    config = resolve_data_config(pretrained_cfg=entry.to_dict())
    if entry.modality == "audio":
        from .data.audio import MEL_BANDS, ROWS

        return (1, entry.in_chans, ROWS, MEL_BANDS)
    frames = config["segments"] * (1 if config["stack"] else config["num_frames"])
    return (1, entry.in_chans, frames, config["size"], config["size"])


def measure(entry: Entry) -> tuple[int, int]:
    """Parameters of an entry's network and multiply-adds of one view; measured once for each network and input."""
    args = {**entry.model_args, "num_classes": entry.num_classes, "in_chans": entry.in_chans}
    return _measure(entry.architecture, json.dumps(args, sort_keys=True), input_shape(entry))


@cache
def _measure(architecture: str, args: str, shape: tuple[int, ...]) -> tuple[int, int]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    build = registry.model_entrypoint(architecture)
    with torch.device("meta"):
        model = build(**json.loads(args)).eval()
    parameters = sum(p.numel() for p in model.parameters())
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.forward = torch.nn.Identity().forward  # adds nothing to the count and takes most of its time
    clip = torch.empty(shape, device="meta")
    boxes = [[torch.zeros(1, 4, device="meta")]] if getattr(model, "task", "") == "detection" else []  # of one person
    run = model.frame_features if architecture.startswith("ssn_") else model  # its heads need proposals
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(clip, *boxes)
    return parameters, counter.get_total_flops() // 2


def _number(value: float, digits: int = 2) -> str:
    """With so many decimals; two digits that count where that would leave little but zeros."""
    return f"{value:.{digits}f}" if value >= 0.1 else f"{value:.2g}"


def _span(values: Sequence[float]) -> str:
    """Smallest to largest value, to about three digits."""
    low, high = (_number(value, 1 if value >= 10 else 2) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


# Tables --------------------------------------------------------------------------------------------------------------


def _table(header: Mapping[str, str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table; ``header`` gives each column's alignment."""
    yield from (f"| {' | '.join(cells)} |" for cells in (header.keys(), header.values()))
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _numbers(metrics: Mapping[str, Any]) -> str:
    """``76.94 / 92.80``; with the metrics' names where they are not these two."""
    values = {k: f"{v:.2f}" for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if list(values) == ["top1", "top5"]:
        return " / ".join(values.values())
    return ", ".join(f"{METRIC_NAMES.get(key, key.replace('_', ' '))} {value}" for key, value in values.items())


def _stated_protocol(metrics: Mapping[str, Any]) -> str:
    """The protocol that a published result names itself, with the entry that it was fused with; else its origin."""
    fused = f" with `{metrics['fused_with']}`" if metrics.get("fused_with") else ""
    return f"{metrics['protocol']}{fused}" if "protocol" in metrics else f"in `{metrics['origin']}`"


def _protocol(entry: Entry) -> str:
    from .prediction import clip_count, describe_protocol

    if entry.metrics and entry.metrics[0].get("protocol"):
        return _stated_protocol(entry.metrics[0])
    config = resolve_data_config(pretrained_cfg=entry.to_dict())
    if entry.modality == "audio":
        clips = clip_count(config)
        return f"{clips} clip{'s' if clips > 1 else ''}"
    return describe_protocol(config)


def _view(entry: Entry) -> str:
    from .prediction import describe_input

    config = resolve_data_config(pretrained_cfg=entry.to_dict())
    if entry.modality == "audio":
        _, _, rows, bands = input_shape(entry)
        return f"sound of {config['num_frames']} frames, {rows} x {bands} mel bands"
    return describe_input(config)


def _row(entry: Entry) -> list[str]:
    """The cells of ``COLUMNS``."""
    parameters, multiply_adds = measure(entry)
    source = _word("sources", entry.tag.split("_")[0], entry.full_name)
    return [
        f"`{entry.full_name}`",
        _numbers(entry.metrics[0]) if entry.metrics else "-",
        _protocol(entry),
        _number(parameters / 1e6),
        _span([multiply_adds / 1e9]),
        _view(entry),
        entry.resolution or "-",
        _pretraining(entry.pretrain, entry.full_name) if entry.pretrain else "none",
        f"[{source}]({entry.origin_url})" if entry.origin_url else source,
        entry.license,
    ]


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by data set, then name, the default tag first."""
    datasets = list(catalog.datasets())

    def place(entry: Entry) -> tuple[Any, ...]:
        return (
            datasets.index(entry.dataset),
            entry.modality != "rgb",
            names.natural_key(entry.name),
            not entry.default,
        )

    return sorted(entries, key=place)


# Sections ------------------------------------------------------------------------------------------------------------


def _anchor(title: str) -> str:
    """The address that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _overview(families: Mapping[str, list[Entry]]) -> Iterator[str]:
    rows = []
    for family, entries in families.items():
        sizes = [measure(entry) for entry in entries]
        best = max((e for e in entries if e.dataset == "k400" and e.top1 is not None), key=_top1, default=None)
        title = _word("families", family, f"{family}.toml")["title"]
        rows.append([
            f"[{title}](#{_anchor(title)})",
            str(len(entries)),
            _span([parameters / 1e6 for parameters, _ in sizes]),
            _span([multiply_adds / 1e9 for _, multiply_adds in sizes]),
            f"{best.top1:.2f} (`{best.full_name}`)" if best else "-",
        ])  # fmt: skip
    columns = {"family": "---", "entries": "---:", "params, M": "---:", "GFLOPs of a view": "---:"}
    yield from _table(columns | {"best top-1 on Kinetics-400, %": "---"}, rows)


def _top1(entry: Entry) -> float:
    return entry.top1 or 0.0


def _family(family: str, entries: list[Entry]) -> Iterator[str]:
    about = _word("families", family, f"{family}.toml")
    papers = dict.fromkeys(f"[{about['cite']}]({entry.paper})" for entry in entries if entry.paper)
    yield f"## {about['title']}\n"
    yield f"{about['about'].strip()}\n"
    yield f"Paper: {', '.join(papers)}.\n"
    yield from _table(COLUMNS, map(_row, entries))
    more = [f"- `{e.full_name}`: {_numbers(m)} ({_stated_protocol(m)})" for e in entries for m in e.metrics[1:]]
    if more:
        yield "\nFurther published results:\n"
        yield from more
    if any(entry.notes for entry in entries):
        yield "\nNotes:\n"
        yield from _notes(entries)
    yield ""


def _notes(entries: Iterable[Entry]) -> Iterator[str]:
    """One item a note, with all the entries that have it."""
    notes: dict[str, list[str]] = {}
    for entry in entries:
        if entry.notes:
            notes.setdefault(entry.notes, []).append(f"`{entry.full_name}`")
    yield from (f"- {', '.join(having)}: {note}" for note, having in notes.items())


def _tags(entries: Iterable[Entry]) -> Iterator[str]:
    parts: dict[str, str] = {}
    for entry in entries:
        source, *rest = entry.tag.split("_")
        parts[source] = _word("sources", source, entry.full_name)
        parts |= {part: _explain_tag_part(part, entry.full_name) for part in rest}
    order = [*words()["sources"], *words()["pretraining"], *catalog.datasets(), *words()["tags"]]
    yield from _table({"tag": "---", "meaning": "---"}, ([f"`{p}`", parts[p]] for p in order if p in parts))


def _datasets(entries: Iterable[Entry]) -> Iterator[str]:
    counts = Counter(entry.dataset for entry in entries)
    rows = [
        [facts["title"], f"`{key}`", str(facts["num_classes"]), _origin(facts), facts["terms"], str(counts[key] or "-")]
        for key, facts in catalog.datasets().items()
    ]
    columns = {"data set": "---", "name": "---", "classes": "---:", "official address": "---", "terms": "---"}
    yield DATA_SETS
    yield from _table(columns | {"entries": "---:"}, rows)


def _origin(facts: dict[str, Any]) -> str:
    return facts["homepage"] if "homepage" in facts else f"made by `{facts['made_by']}`"


def _licences(entries: Sequence[Entry]) -> Iterator[str]:
    counts = Counter(entry.license for entry in entries)
    yield f"The weights' own licences: {', '.join(f'{k} ({v} entries)' for k, v in counts.most_common())}.\n"
    restricted = [entry for entry in entries if entry.license.lower() not in PERMISSIVE]
    if restricted:
        yield "These licences may forbid or restrict commercial use; read them first:\n"
        yield from (f"- `{entry.full_name}`: {entry.license}" for entry in restricted)
    else:
        yield "None of them forbids commercial use; all ask to keep the notice of the licence."
    noted = [entry for entry in entries if "commercial" in entry.notes]
    if noted:
        yield "\nThese weights need a look before commercial use all the same:\n"
        yield from _notes(noted)
    yield f"\n{LICENCES}"
    counts = Counter(entry.dataset for entry in entries)
    owners = [
        f"{f['title']} ({counts[k]})" for k, f in catalog.datasets().items() if f.get("research_only") and counts[k]
    ]
    if owners:
        yield "Data sets that their owners give out for research or non-commercial use, with the number of entries that"
        yield f"were trained on them: {', '.join(owners)}."


def render(entries: Iterable[Entry] | None = None) -> str:
    """Text of MODEL_CARDS.md, of all entries of the catalog unless some are given.

    Raises:
        CatalogError: a family, source, pretraining or part of a tag has no words in ``catalog/families.toml``.
    """
    rows = _in_order(catalog.entries().values() if entries is None else entries)
    known = {entry.family: None for entry in rows}
    order = [family for family in words()["families"] if family in known]
    families = {family: [e for e in rows if e.family == family] for family in dict.fromkeys([*order, *known])}
    count = f"{len(rows)} entries in {len(families)} families.\n"
    parts = [HEAD, count, *_overview(families), "", READING, *_tags(rows), ""]
    for family, members in families.items():
        parts += _family(family, members)
    parts += ["## Data sets\n", *_datasets(rows), "", "## Licences\n", *_licences(rows)]
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cards, or with ``--check FILE`` compare them with a file: 0 up to date, 1 not."""
    parser = argparse.ArgumentParser(prog="python -m videozoo.model_cards", description="Model cards of the catalog.")
    parser.add_argument("--check", metavar="FILE", type=Path, help="compare with this file in place of printing")
    args = parser.parse_args(argv)
    text = render()
    if args.check is None:
        sys.stdout.write(text)
        return 0
    if args.check.is_file() and args.check.read_text(encoding="utf-8") == text:
        return 0
    print(f"{args.check} is out of date: run 'python -m videozoo.model_cards > {args.check}'", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
