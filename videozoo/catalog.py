"""The catalog: every published checkpoint as an :class:`Entry`, read from the TOML tables in ``catalog/``.

One table a family: ``[defaults]`` holds what its entries share, each ``[[entry]]`` the rest; the tables ``sampling``,
``test``, ``train`` and ``model_args`` are merged key by key. Wrong tables are errors that name file and entry.
"""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .names import nearest_names, split_tag

MERGED = ("sampling", "test", "train", "model_args")
MODALITIES = ("flow", "audio")
TASKS = ("recognition", "detection", "localization")
NO_ENTRIES = ("configurations.toml", "datasets.toml", "families.toml")  # tables of other things

SAMPLING = {"kind": "uniform", "frames": 8, "stride": 8, "segments": 1, "stack": False}
TEST = {
    "kind": "uniform",
    "clips": 1,
    "segments": 1,
    "twice": False,
    "resize": 256,
    "keep_ratio": True,
    "crops": 1,
    "size": 224,
    "average": "prob",
}


class CatalogError(ValueError):
    """A catalog table does not follow the rules."""


@dataclass(frozen=True)
class Entry:
    """One published checkpoint: what it is, where it is, what goes in and what was measured with it.

    Fields that timm has too carry timm's names. ``mean`` and ``std`` are in units of ``value_range``.
    """

    name: str
    """Architecture, data set and modality: ``slowfast_r50_8x8_k400``."""
    tag: str
    """Source, pretraining and recipe: ``mma0_256p``."""
    architecture: str
    """Registered builder: ``slowfast_r50_8x8``."""
    family: str
    """Name of the family's table."""
    dataset: str
    """Data set of training and test, a key of ``datasets.toml``."""
    num_classes: int
    default: bool = False
    """The entry that the name without a tag means."""
    alias: str = ""
    """Short name that leaves the sampling out: ``slowfast_r50_k400``."""
    upstream: tuple[str, ...] = ()
    """Names that the publisher gave to configuration and file."""
    task: str = "recognition"
    modality: str = "rgb"
    labels: str = ""
    """List of class names in ``catalog/labels``; empty if none is published."""
    multi_label: bool = False
    """Classes are independent (sigmoid), not exclusive (softmax)."""
    model_args: dict[str, Any] = field(default_factory=dict)
    in_chans: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    value_range: tuple[float, float] = (0.0, 1.0)
    """Pixel values are brought to this range before ``mean`` and ``std`` apply."""
    channel_order: str = "rgb"
    interpolation: str = "bilinear"
    resize_backend: str = "cv2"
    """Whose resizing the published numbers were measured with; ``cv2`` is without antialiasing."""
    size: int = 224
    """Crop size in training, pixels."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """One network input: kind, frames and stride of a clip, segments joined along time, stack (fields to channels)."""
    train: dict[str, Any] = field(default_factory=dict)
    """Augmentation of the published training."""
    test: dict[str, Any] = field(default_factory=dict)
    """The protocol behind ``metrics``: clips, crops, sizes and how the views' scores are averaged."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Published results in percent; ``protocol`` is stated where it is not that of ``test``."""
    pretrain: str = ""
    """Data that the weights were initialised from; empty: trained from scratch."""
    resolution: str = ""
    """How the data were stored for training and test."""
    url: str = ""
    """Published address."""
    hash_prefix: str = ""
    """First digits of the published file's sha256."""
    container: str = ""
    """Where the state dict sits in the published file."""
    conversion: str = ""
    """Rules in ``videozoo.convert`` that bring the published keys to ours."""
    surplus_classes: bool = False
    """The published classifier may have rows beyond the data set's classes, which training never used."""
    file: str = ""
    """Local file to load instead of any published one."""
    packaged: str = ""
    """File in ``catalog/weights`` for weights that come with the package, whose hash is ``sha256``."""
    hf_hub_id: str = ""
    """Repository in the Hub, or ``organisation/``, whose repository of this entry's name is meant."""
    hf_hub_filename: str = "model.safetensors"
    revision: str = ""
    """Full commit hash in the Hub repository."""
    sha256: str = ""
    """Hash of the file in the Hub repository."""
    num_bytes: int = 0
    """Size of the file in the Hub repository."""
    first_conv: tuple[str, ...] = ()
    classifier: str = ""
    license: str = ""
    paper: str = ""
    description: str = ""
    origin_url: str = ""
    notes: str = ""

    @property
    def full_name(self) -> str:
        """Name and tag: ``slowfast_r50_8x8_k400.mma0``."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    @property
    def top1(self) -> float | None:
        """Published top-1 accuracy in percent, under the entry's own protocol."""
        return self.metrics[0].get("top1") if self.metrics else None

    def to_dict(self) -> dict[str, Any]:
        """All fields as a plain dict, as models carry it in ``pretrained_cfg``."""
        return asdict(self)


FIELDS = {f.name: f for f in fields(Entry)}
INPUT_FIELDS = (
    *("modality", "mean", "std", "value_range", "channel_order", "interpolation", "resize_backend", "size"),
    *("sampling", "train", "test"),
)
SEQUENCES = ("upstream", "mean", "std", "value_range", "metrics", "first_conv")


def _read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("videozoo").joinpath("catalog", name).read_text(encoding="utf-8"))


@cache
def datasets() -> dict[str, dict[str, Any]]:
    """Data sets by short name: title, num_classes, labels, multi_label, homepage."""
    return _read_toml("datasets.toml")


@cache
def label_lists() -> list[str]:
    """Names of the label lists."""
    return sorted(p.name[:-4] for p in resources.files("videozoo").joinpath("catalog", "labels").iterdir())


@cache
def labels(name: str) -> list[str]:
    """Class names of list ``name`` in index order; ValueError if there is no such list."""
    if name not in label_lists():
        raise ValueError(f"there is no label list {name!r}: choose one of {', '.join(label_lists())}")
    return resources.files("videozoo").joinpath("catalog", "labels", f"{name}.txt").read_text("utf-8").splitlines()


def label_names(facts: dict[str, Any]) -> list[str]:
    """Class names of a model by its ``pretrained_cfg``: its own, those of its list, or none if neither is known."""
    if facts.get("label_names"):
        return list(facts["label_names"])
    return list(labels(facts["labels"])) if facts.get("labels") in label_lists() else []


def packaged_weights(name: str) -> Path:
    """The file of weights that come with the package."""
    return Path(str(resources.files("videozoo").joinpath("catalog", "weights", name)))


def parse_entry_name(name: str) -> tuple[str, str, str]:
    """``slowonly_r50_8x8_k400_flow`` -> architecture, data set, modality; CatalogError if no data set is in it."""
    modality = next((m for m in MODALITIES if name.endswith(f"_{m}")), "")
    base = name[: -len(modality) - 1] if modality else name
    for dataset in sorted(datasets(), key=len, reverse=True):
        if base.endswith(f"_{dataset}"):
            return base[: -len(dataset) - 1], dataset, modality or "rgb"
    raise CatalogError(f"{name!r} names no data set of datasets.toml")


def make_entry(row: dict[str, Any], defaults: dict[str, Any], where: str) -> Entry:
    """An :class:`Entry` from its table, the file's defaults and what follows from its name and data set."""
    values = {**defaults, **row}
    for key in MERGED:
        base = {"sampling": SAMPLING, "test": TEST}.get(key, {})
        values[key] = {**base, **defaults.get(key, {}), **row.get(key, {})}
        unknown = set(values[key]) - set(base)
        if base and unknown:
            raise CatalogError(f"{where}: unknown keys in {key!r}: {', '.join(sorted(unknown))}")
    unknown = set(values) - set(FIELDS)
    if unknown:
        hints = [f"{key} (did you mean {nearest_names(key, FIELDS, 1)[0]}?)" for key in sorted(unknown)]
        raise CatalogError(f"{where}: unknown keys: {', '.join(hints)}")
    for key in ("name", "tag"):
        if not values.get(key):
            raise CatalogError(f"{where}: an entry has no {key!r}")
    architecture, dataset, modality = parse_entry_name(values["name"])
    facts = datasets()[dataset]
    derived = {
        "architecture": architecture,
        "dataset": dataset,
        "modality": modality,
        "num_classes": facts["num_classes"],
        "labels": facts.get("labels", ""),
        "multi_label": facts.get("multi_label", False),
        "hash_prefix": _hash_in_url(values.get("url", "")),
    }
    values = {**derived, **values}
    for key in SEQUENCES:
        values[key] = tuple(values.get(key, FIELDS[key].default))
    return Entry(**values)


def _hash_in_url(url: str) -> str:
    """The sha256 digits at the end of a published file name, ``..._20200716-73547d2b.pth``."""
    match = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", url)
    return match.group(1) if match else ""


def check_entries(entries: list[Entry]) -> None:
    """Rules across entries; CatalogError names the offender."""
    seen: dict[str, str] = {}
    for entry in entries:
        for key in (entry.full_name, entry.url, entry.alias, *entry.upstream):
            if key and key in seen:
                raise CatalogError(f"{entry.full_name}: {key!r} belongs to {seen[key]} already")
            seen[key] = entry.full_name
        if entry.task not in TASKS:
            raise CatalogError(f"{entry.full_name}: unknown task {entry.task!r}")
        if entry.labels and len(labels(entry.labels)) != entry.num_classes:
            count = len(labels(entry.labels))
            raise CatalogError(f"{entry.full_name}: {entry.num_classes} classes, but {count} labels in {entry.labels}")
        if len(entry.mean) != len(entry.std):
            raise CatalogError(f"{entry.full_name}: mean and std differ in length")
        if not entry.license:
            raise CatalogError(f"{entry.full_name}: the licence of the weights is not stated")
        _check_pin(entry)
    names = {entry.name for entry in entries}
    for name in names:
        defaults = [e.tag for e in entries if e.name == name and e.default]
        if len(defaults) != 1:
            raise CatalogError(f"{name}: exactly one tag must be the default, found {defaults}")


def _check_pin(entry: Entry) -> None:
    for key, digits in (("revision", 40), ("sha256", 64)):
        if not re.fullmatch(rf"(?:[0-9a-f]{{{digits}}})?", getattr(entry, key)):
            raise CatalogError(f"{entry.full_name}: {key!r} must be {digits} hexadecimal digits")
    if entry.revision and not (entry.sha256 and entry.hf_hub_id):
        raise CatalogError(f"{entry.full_name}: a revision needs 'hf_hub_id' and 'sha256': write it with videozoo pin")


def table_files() -> list[Path]:
    """The tables of entries, one file a family."""
    folder = Path(str(resources.files("videozoo").joinpath("catalog")))
    return sorted(path for path in folder.glob("*.toml") if path.name not in NO_ENTRIES)


def read_table(text: str, where: str) -> list[Entry]:
    """Entries of one family's table, given as TOML text."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{where}: {error}") from error
    unknown = set(table) - {"defaults", "entry"}
    if unknown:
        raise CatalogError(f"{where}: unknown tables: {', '.join(sorted(unknown))}")
    defaults = {"family": where.removesuffix(".toml"), **table.get("defaults", {})}
    return [make_entry(row, defaults, f"{where}, entry {row.get('name')!r}") for row in table.get("entry", [])]


@cache
def entries() -> dict[str, Entry]:
    """All entries by full name, in the order of the tables."""
    rows: list[Entry] = []
    for path in table_files():
        rows += read_table(path.read_text(encoding="utf-8"), path.name)
    check_entries(rows)
    return {entry.full_name: entry for entry in rows}


@cache
def _by_any_name() -> dict[str, str]:
    """Default names, aliases, upstream names and, where they are unique, published file names to full names."""
    declared, files = {}, {}
    for entry in entries().values():
        if entry.default:
            declared[entry.name] = entry.full_name
        for name in filter(None, (entry.alias, *entry.upstream)):
            declared[name] = entry.full_name
        if entry.url:
            files.setdefault(entry.url.rsplit("/", 1)[-1].rsplit(".", 1)[0], []).append(entry.full_name)
    return {name: full[0] for name, full in files.items() if len(full) == 1} | declared


def base_name(name: str) -> str:
    """The entry name behind an alias; other names unchanged."""
    full = _by_any_name().get(name)
    return entries()[full].name if full and entries()[full].alias == name else name


def input_facts(architecture: str) -> dict[str, Any]:
    """What a bare architecture is fed: as its entries are, else what the sampling in its name (8x8, f8) says."""
    rows = [e for e in entries().values() if e.architecture == architecture and e.default]
    if rows:
        entry = min(rows, key=lambda e: (e.modality == "flow", e.dataset != "k400"))
        return {key: deepcopy(getattr(entry, key)) for key in INPUT_FIELDS}
    if match := re.search(r"_(\d+)x(\d+)$", architecture):
        sampling = {**SAMPLING, "frames": int(match[1]), "stride": int(match[2])}
        return {"sampling": sampling, "test": {**TEST, "clips": 10, "crops": 3, "size": 256}}
    if match := re.search(r"_f(\d+)$", architecture):
        count = int(match[1])
        sampling = {**SAMPLING, "frames": 1, "stride": 1, "segments": count}
        return {"sampling": sampling, "test": {**TEST, "clips": count, "segments": count}}
    return {}


def find_entry(name: str) -> Entry | None:
    """The entry that ``name`` means: with or without tag, alias (tags too) or upstream name; None if there is none."""
    name = name.removesuffix(".py")
    full = _by_any_name().get(name, name)
    if full in entries():
        return entries()[full]
    base, tag = split_tag(name)
    return entries().get(f"{base_name(base)}.{tag}") if tag else None


@cache
def configurations() -> dict[str, str]:
    """Upstream configurations without published weights -> architecture, data set and modality as one name."""
    return _read_toml("configurations.toml")


def untrained_facts(name: str) -> tuple[str, dict[str, Any]] | None:
    """Architecture and facts of an upstream configuration without published weights; None if ``name`` is none."""
    target = configurations().get(name.removesuffix(".py"))
    if target is None:
        return None
    architecture, dataset, modality = parse_entry_name(target)
    facts = {key: datasets()[dataset].get(key, default) for key, default in (("labels", ""), ("multi_label", False))}
    facts |= {"dataset": dataset, "modality": modality, "num_classes": datasets()[dataset]["num_classes"]}
    return architecture, {**input_facts(architecture), **facts}


def tags_of(name: str) -> list[str]:
    """Tags of an entry name (or alias), the default first."""
    base = base_name(name)
    rows = [e for e in entries().values() if e.name == base]
    return [e.tag for e in sorted(rows, key=lambda e: not e.default)]
