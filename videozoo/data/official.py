"""Annotation files as the authors of the data sets publish them.

Every reader takes the files of one split, the split's name and the class names in index order, and returns samples
whose paths are those of the usual folders; a path without suffix stands for whatever video or folder of frames has that
name. A class that the names lack is an error: an index is never made up from the files at hand.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .annotations import UNLABELLED, AnnotationError, Sample, read_json, read_text

__all__ = ["OFFICIAL_FORMATS", "class_key", "read_tag_categories"]

Names = Sequence[str] | Mapping[str, Sequence[str]]
_ACTIVITYNET_SUBSETS = {"training": "train", "validation": "val", "testing": "test"}


def class_key(name: str) -> str:
    """A class name as compared: the quotes, blanks and capitals that folder names lose do not count."""
    return re.sub(r"[\s_+]+", "_", name.replace('"', "").strip()).lower()


def class_folder(name: str) -> str:
    """The folder that Kinetics' class is stored in: without double quotes, blanks as underscores."""
    return name.replace('"', "").replace(" ", "_")


def _index(names: Names) -> dict[str, int]:
    return {class_key(name): index for index, name in enumerate(names)}


def _lookup(index: Mapping[str, int], name: str, where: str) -> int:
    try:
        return index[class_key(name)]
    except KeyError:
        raise AnnotationError(f"{where}: {name!r} is none of the data set's {len(index)} classes.") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def _rows(path: Path, delimiter: str = ",", least: int = 1) -> Iterator[tuple[str, list[str]]]:
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path)), delimiter=delimiter), 1):
        where = f"{path}, line {number}"
        if row and len(row) < least:
            raise AnnotationError(f"{where}: expected at least {least} columns, got {row}.")
        if row:
            yield where, row


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise AnnotationError(f"{where}: {text!r} should be a number.") from None


def read_ucf101(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """`trainlist01.txt` (`Class/v_X.avi id`, ids from 1) or `testlist01.txt` (no id: the folder is the class)."""
    index, samples = _index(names), []
    for where, line in _lines(files[0]):
        path, _, number = line.partition(" ")
        label = _lookup(index, path.split("/")[0], where)
        if number.strip() and _number(number, where) != label + 1:
            raise AnnotationError(f"{where}: class {number.strip()} does not belong to the folder of {path}.")
        samples.append(Sample(path, label))
    return samples


def read_hmdb51(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """All `CLASS_test_split1.txt` of a fold: `name.avi flag`, 1 for training, 2 for test, 0 unused."""
    index, samples = _index(names), []
    flag = {"train": "1", "val": "2"}[split]
    for file in sorted(files):
        folder = re.sub(r"_test_split\d$", "", file.stem)
        label = _lookup(index, folder, str(file))
        for where, line in _lines(file):
            name, _, value = line.rpartition(" ")
            if not name or value not in ("0", "1", "2"):
                raise AnnotationError(f"{where}: expected 'name.avi 0', 1 or 2, got {line!r}.")
            if value == flag:
                samples.append(Sample(f"{folder}/{name.strip()}", label))
    return samples


def read_kinetics(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """csv with a header: `label,youtube_id,time_start,time_end,split`; test files have no label.

    A clip is `{folder}/{youtube_id}_{start:06d}_{end:06d}`, in seconds; test clips lie in no folder.
    """
    index, samples = _index(names), []
    rows = _rows(files[0], least=3)
    _, header = next(rows, ("", []))
    if not {"youtube_id", "time_start", "time_end"} <= set(header):
        raise AnnotationError(f"{files[0]}: expected the columns youtube_id, time_start, time_end, got {header}.")
    for where, row in rows:
        cells = dict(zip(header, row, strict=False))
        start, end = (int(_number(cells.get(key, ""), where)) for key in ("time_start", "time_end"))
        name = f"{cells['youtube_id']}_{start:06d}_{end:06d}"
        if cells.get("label"):
            samples.append(Sample(f"{class_folder(cells['label'])}/{name}", _lookup(index, cells["label"], where)))
        else:
            samples.append(Sample(name, UNLABELLED))
    return samples


def read_something_csv(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """Something-Something V1 and Jester: `id;label`, or `id` alone for test; a video is a folder of frames."""
    index, samples = _index(names), []
    for where, row in _rows(files[0], ";"):
        samples.append(Sample(row[0].strip(), _lookup(index, row[1], where) if len(row) > 1 else UNLABELLED))
    return samples


def read_something_json(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """Something-Something V2: list of `{id, template}`; without its brackets the template is the class."""
    index, samples = _index(names), []
    items = read_json(files[0])
    if not isinstance(items, list):
        raise AnnotationError(f"{files[0]}: expected a list of videos.")
    for number, item in enumerate(items):
        where = f"{files[0]}, item {number}"
        if not isinstance(item, dict) or "id" not in item:
            raise AnnotationError(f"{where}: expected an object with 'id', got {item!r}.")
        template = item.get("template", "").replace("[", "").replace("]", "")
        samples.append(Sample(str(item["id"]), _lookup(index, template, where) if template else UNLABELLED))
    return samples


def read_mit(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """Moments in Time: `class/video.mp4,...`; further columns (class, votes) do not matter."""
    index = _index(names)
    return [Sample(row[0], _lookup(index, row[0].split("/")[0], where)) for where, row in _rows(files[0])]


def read_mmit(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """Multi-Moments in Time: `path,label,label,...`, indices from 0."""
    samples = []
    for where, row in _rows(files[0], least=2):
        samples.append(Sample(row[0], tuple(int(_number(cell, where)) for cell in row[1:] if cell.strip())))
    return samples


def read_hvu(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """HVU: header, then `tag|tag|...,youtube_id,start,end`; `names` are `{category: tags}`.

    A clip is `{youtube_id}_{start:06d}_{end:06d}` in TENTHS of seconds.
    """
    places: dict[str, tuple[str, int]] = {}
    for category, tags in names.items():
        places |= {tag: (category, index) for index, tag in enumerate(tags)}
    rows, samples = _rows(files[0], least=4), []
    next(rows, None)
    for where, (tags, video, start, end, *_) in rows:
        label: dict[str, tuple[int, ...]] = {}
        for tag in tags.split("|"):
            if tag not in places:
                raise AnnotationError(f"{where}: {tag!r} is none of the {len(places)} tags.")
            category, index = places[tag]
            label[category] = (*label.get(category, ()), index)
        tenths = [int(_number(second, where) * 10) for second in (start, end)]
        samples.append(Sample(f"{video}_{tenths[0]:06d}_{tenths[1]:06d}", label))
    return samples


def read_tag_categories(path: Path) -> dict[str, list[str]]:
    """HVU's `tag,category` table (with header) as the tags of each category, both sorted: the order of indices."""
    categories: dict[str, list[str]] = {}
    for _, (tag, category, *_rest) in list(_rows(path, least=2))[1:]:
        categories.setdefault(category, []).append(tag)
    return {category: sorted(categories[category]) for category in sorted(categories)}


def read_gym(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """FineGym99: `clip label`, from 0; a clip is `<youtube>_E_<start>_<end>_A_<start>_<end>`."""
    samples = []
    for where, line in _lines(files[0]):
        clip, _, label = line.rpartition(" ")
        if not clip or not 0 <= _number(label, where) < len(names):
            raise AnnotationError(f"{where}: expected 'clip label' with a label of 0..{len(names) - 1}, got {line!r}.")
        samples.append(Sample(clip.strip(), int(label)))
    return samples


def read_activitynet(files: Sequence[Path], split: str, names: Names) -> list[Sample]:
    """ActivityNet's database file: a video is `v_<id>` and has the class of its first annotation.

    The segments, `(start, end, class)` in seconds, are in `extra["segments"]`, the length in `extra["seconds"]`.
    """
    index, samples = _index(names), []
    content = read_json(files[0])
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise AnnotationError(f"{files[0]}: expected an object with a 'database' of videos.")
    for video, facts in content["database"].items():
        if _ACTIVITYNET_SUBSETS.get(facts.get("subset")) != split:
            continue
        where = f"{files[0]}, video {video}"
        rows = [(*map(float, a["segment"]), _lookup(index, a["label"], where)) for a in facts.get("annotations", [])]
        label = rows[0][2] if rows else UNLABELLED
        extra = {"segments": tuple(rows), "seconds": float(facts.get("duration", 0))}
        samples.append(Sample(f"v_{video}", label, extra=extra))
    return samples


OFFICIAL_FORMATS: dict[str, Callable[[Sequence[Path], str, Names], list[Sample]]] = {
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "something_csv": read_something_csv,
    "something_json": read_something_json,
    "mit": read_mit,
    "mmit": read_mmit,
    "hvu": read_hvu,
    "gym": read_gym,
    "activitynet": read_activitynet,
}
