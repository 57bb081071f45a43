"""Scores per video on disk, so that a run that was interrupted goes on where it stopped.

A folder holds ``run.json`` (what the scores were computed with, and of which videos) and safetensors files with the
scores of some videos each. Every file is written completely or not at all; several processes write side by side.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import atomic_path

MANIFEST = "run.json"
FORMAT = 1
SHARD_VIDEOS, SHARD_SECONDS = 256, 30.0  # a file is written after so many videos or seconds, whichever is first


class StorageError(ValueError):
    """A folder of saved scores is damaged, or belongs to another run. The message names folder and remedy."""


class ScoreStore:
    """The saved scores of one run in a folder; without a folder nothing is kept on disk.

    Args:
        folder: made if it is missing; None keeps no files.
        fingerprint: what decides the scores, as strings by name ("weights", "protocol", ...). A folder with another
            fingerprint is a StorageError that names what differs.
        videos: names of the data set's videos; scores are stored by their place in this list.
        facts: anything else worth keeping with the scores, JSON values.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        fingerprint: Mapping[str, str],
        videos: Sequence[str],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self._new: dict[int, np.ndarray] = {}
        self._begun = time.monotonic()
        if self.folder is None:
            return
        if (self.folder / MANIFEST).exists():
            self._check(dict(fingerprint))
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise StorageError(
                f"{folder} holds other files and no {MANIFEST}: give a new or empty folder for the scores."
            )
        else:
            manifest = {"format": FORMAT, "fingerprint": dict(fingerprint), **(facts or {}), "videos": list(videos)}
            with atomic_path(self.folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")

    def _check(self, fingerprint: dict[str, str]) -> None:
        saved = _manifest(self.folder)["fingerprint"]
        other = sorted(key for key in saved.keys() | fingerprint.keys() if saved.get(key) != fingerprint.get(key))
        if other:
            raise StorageError(
                f"{self.folder} holds scores of another run ({', '.join(other)} differ): give another folder, "
                "or delete this one to start afresh."
            )

    def read(self) -> tuple[dict[int, np.ndarray], float]:
        """What is on disk: scores by number of the video, as they were added, and the seconds that they took."""
        return ({}, 0.0) if self.folder is None else _read_shards(self.folder)

    def add(self, video: int, scores: np.ndarray) -> None:
        """Keep the scores of one video, (classes,) or (persons, classes); they reach the disk within half a minute."""
        if self.folder is None:
            return
        self._new[video] = np.asarray(scores, np.float32)
        if len(self._new) >= SHARD_VIDEOS or time.monotonic() - self._begun >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        from safetensors.numpy import save_file

        now = time.monotonic()
        if self._new:
            rows = [np.atleast_2d(scores) for scores in self._new.values()]
            arrays = {"video": np.array(list(self._new), np.int64), "scores": np.concatenate(rows)}
            if any(scores.ndim > 1 for scores in self._new.values()):
                arrays["persons"] = np.array([len(part) for part in rows], np.int64)
            with atomic_path(self.folder / f"scores-{secrets.token_hex(8)}.safetensors") as temporary:
                save_file(arrays, temporary, metadata={"seconds": f"{now - self._begun:.6f}"})
        self._new, self._begun = {}, now


def read_scores(folder: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Scores (classes,) by name of the video, and the manifest, of a folder that a run has written."""
    manifest = _manifest(Path(folder))
    scores, _ = _read_shards(Path(folder))
    return {manifest["videos"][video]: row for video, row in sorted(scores.items())}, manifest


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(
            f"{folder} holds no saved scores ({MANIFEST} is missing): give a --save-logits folder."
        ) from error
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}): delete the folder to start afresh.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StorageError(f"{path} is not of format {FORMAT}, which this version writes: delete the folder.")
    return manifest


def _read_shards(folder: Path) -> tuple[dict[int, np.ndarray], float]:
    from safetensors import SafetensorError, safe_open

    scores: dict[int, np.ndarray] = {}
    seconds = 0.0
    for path in sorted(folder.glob("scores-*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                seconds += float(file.metadata()["seconds"])
                numbers, rows = file.get_tensor("video"), file.get_tensor("scores")
                if "persons" in file.keys():
                    rows = np.split(rows, np.cumsum(file.get_tensor("persons"))[:-1])
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}): delete it, its videos are computed anew.") from error
        scores.update(zip(numbers.tolist(), rows, strict=True))
    return scores, seconds
