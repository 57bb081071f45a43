"""Features on disk: parts of a run that may be interrupted at any time, and the file that they become.

A file holds rows ``(windows, width)`` as ``.npy``, ``.csv`` (a line of names first, as published features have it) or
``.safetensors``; beside it stands ``NAME.json`` with the time stamps and how the features were made.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..checkpoint import atomic_path

FORMATS = ("npy", "csv", "safetensors")
PART = 128  # windows of a file of a run under way: what is lost at most
MANIFEST = "run.json"


class Parts:
    """Rows of features in files of ``PART`` windows, as long as not all of them are there.

    Args:
        folder: made if it is missing.
        run: what decides the features, by name. A folder with other values is a ValueError that names what differs.
        windows: of the whole video.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], windows: int) -> None:
        self.folder, self.windows = folder, windows
        if (folder / MANIFEST).exists():
            check_run(read_json_object(folder / MANIFEST), run, folder)
        else:
            write_json(folder / MANIFEST, run)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there, in order."""
        count = -(-self.windows // PART)
        return [part for part in range(count) if not self._path(part).exists()]

    def place(self, part: int) -> slice:
        """The windows of a part."""
        return slice(part * PART, min((part + 1) * PART, self.windows))

    def write(self, part: int, rows: np.ndarray) -> None:
        """Keep the rows of a part."""
        with atomic_path(self._path(part)) as temporary, temporary.open("wb") as file:
            np.save(file, rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The rows of all parts, in order."""
        for part in range(-(-self.windows // PART)):
            yield np.load(self._path(part), allow_pickle=False)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.npy"


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and what belongs to it, to start afresh.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no facts of features: move it away.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def check_run(saved: Mapping[str, Any], run: Mapping[str, Any], place: Path) -> None:
    """ValueError if what is at ``place`` was made otherwise than ``run`` says."""
    other = sorted(key for key in run if saved.get(key) != run[key])
    if other:
        raise ValueError(
            f"{place} holds features of another run ({', '.join(other)} differ): give another folder, "
            "or delete it to start afresh."
        )


def feature_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``NAME.json`` beside a file of features says of them: times, video, model, ...; empty without it.

    ValueError for a file of that name that ``videozoo features`` has not written.
    """
    facts = Path(path).with_suffix(".json")
    if not facts.is_file():
        return {}
    found = read_json_object(facts)
    video = found.get("video")
    if not isinstance(video, dict) or not {"frames", "fps"} <= video.keys() or not {"every", "run"} <= found.keys():
        raise ValueError(f"{facts} does not tell how {os.path.basename(path)} was made: move one of both away.")
    return found


# Writing -------------------------------------------------------------------------------------------------------------


def write_feature_file(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, int], times: np.ndarray) -> None:
    """Rows of float32 features, part after part, as a file of the format of its suffix; completely or not at all."""
    write = {".npy": _write_npy, ".csv": _write_csv, ".safetensors": _write_safetensors}[path.suffix]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write(file, parts, shape, times)


def _write_npy(file: BinaryIO, parts: Iterable[np.ndarray], shape: tuple[int, int], times: np.ndarray) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for rows in parts:
        file.write(rows.astype("<f4").tobytes())


def _write_csv(file: BinaryIO, parts: Iterable[np.ndarray], shape: tuple[int, int], times: np.ndarray) -> None:
    file.write((",".join(f"f{i}" for i in range(shape[1])) + "\n").encode())
    for rows in parts:
        np.savetxt(file, rows, fmt="%.9g", delimiter=",")


def _write_safetensors(file: BinaryIO, parts: Iterable[np.ndarray], shape: tuple[int, int], times: np.ndarray) -> None:
    """The format's header by hand, so that features need not all be in memory."""
    size, stamps = 4 * shape[0] * shape[1], times.astype("<f8").tobytes()
    header = {
        "features": {"dtype": "F32", "shape": list(shape), "data_offsets": [len(stamps), len(stamps) + size]},
        "times": {"dtype": "F64", "shape": [len(times)], "data_offsets": [0, len(stamps)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text + stamps)
    for rows in parts:
        file.write(rows.astype("<f4").tobytes())
