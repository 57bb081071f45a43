"""What an evaluation found: measured beside published numbers, failures, and how a run differs from another one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..prediction import describe_protocol
from .storage import read_scores


@dataclass(frozen=True)
class Failure:
    """A video that could not be read, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class Change:
    """A video whose predicted class differs between two runs; classes by index."""

    video: str
    labels: tuple[int, ...]
    before: int
    after: int


@dataclass(frozen=True)
class Comparison:
    """The predictions of a result beside those that another run has saved."""

    other: str
    """Folder of the other run."""
    model: str
    """Its model."""
    common: int
    """Videos that both runs have; ``changes`` are among them."""
    only_here: int
    only_there: int
    changes: list[Change]


@dataclass(frozen=True)
class ClassResult:
    """What a detector or localiser is worth on one class."""

    name: str
    average_precision: float | None
    """In percent; None for a class that does not occur. Of segments the mean over the thresholds of IoU."""
    positives: int
    """True boxes or segments."""


OWN_VALIDATION = "measured on the validation videos"  # how `origin` begins where no paper but a training gave a result


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a data set's videos and what follows from them. Metrics are in percent."""

    model: dict[str, Any]
    """The model's ``pretrained_cfg`` with ``full_name`` and ``params``."""
    dataset: dict[str, Any]
    """name, title, split, and the number of videos in all of it."""
    config: dict[str, Any]
    """The resolved data config: sampling, crops, normalisation, averaging."""
    metrics: dict[str, float]
    """Measured over the videos that could be read, by the names that published metrics have; empty if none could."""
    published: dict[str, Any]
    """Published under the model's own protocol, with ``origin``; empty if nothing is."""
    remark: str
    """In what the measurement is known to differ from the published one; empty if in nothing."""
    videos: list[str]
    """Names of the measured videos, in the order of the data set."""
    labels: list[tuple[int, ...]]
    """Their true classes; of a detector or localiser none."""
    scores: np.ndarray
    """Their averaged scores, float32 (videos, classes): mean logits, or mean probabilities where these are averaged.
    Of a detector or localiser none."""
    class_names: list[str]
    failures: list[Failure]
    """In the order of the data set."""
    resumed: int
    """How many of the measured videos came from saved scores."""
    seconds: float
    """Time that scoring took, added up over processes and over the sessions of a run that was resumed."""
    device: str
    precision: str
    """Of the weights, with that of autocast if it was on."""
    processes: int
    weights: str = ""
    """Where the weights came from, if the caller said so."""
    comparison: Comparison | None = None
    """Set by :func:`compare`."""
    per_class: list[ClassResult] | None = None
    """Of a detector or localiser: the classes that its metric counts."""
    curve: list[tuple[float, float]] | None = None
    """Of a localiser: average number of proposals a video, and their average recall in percent."""
    unit: str = "video"
    """What was measured one by one: "video", or "key frame" of a detector."""

    @property
    def reference(self) -> str:
        """What ``published`` is: "validation" where a training of one's own measured it on other videos."""
        return "validation" if str(self.published.get("origin")).startswith(OWN_VALIDATION) else "published"

    @property
    def protocol(self) -> str:
        """Views and averaging in words."""
        return describe_protocol(self.config)

    @property
    def counted(self) -> str:
        """What the numbers of ``per_class`` are of: "boxes" or "segments"."""
        return "segments" if self.unit == "video" else "boxes"

    @property
    def differences(self) -> dict[str, float]:
        """Measured minus published, for the metrics that both have."""
        return {key: value - self.published[key] for key, value in self.metrics.items() if key in self.published}

    @property
    def seconds_per_video(self) -> float:
        """Of one process, reading and transforms included; 0 if no video could be read."""
        return self.seconds / len(self.videos) if self.videos else 0.0

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest score of each video, the first of equal ones."""
        return self.scores.argmax(1) if len(self.scores) else np.zeros(0, np.int64)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: everything but the scores and the lists of measured videos."""
        facts = {
            "model": self.model["full_name"],
            "weights": self.weights,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "remark": self.remark,
            "published": self.published,
            "metrics": self.metrics,
            "differences": self.differences,
            "videos": len(self.videos),
            "failed": len(self.failures),
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "seconds_per_video": round(self.seconds_per_video, 6),
            "params": self.model["params"],
            "device": self.device,
            "precision": self.precision,
            "processes": self.processes,
            "config": self.config,
            "failures": [{"video": failure.video, "reason": failure.reason} for failure in self.failures],
        }
        if self.curve is not None:
            facts["curve"] = [[round(x, 4), round(y, 4)] for x, y in self.curve]
        if self.per_class is not None:
            facts["classes"] = [asdict(row) for row in self.per_class]
        return facts if self.comparison is None else facts | {"comparison": self._comparison_dict(self.comparison)}

    def _comparison_dict(self, comparison: Comparison) -> dict[str, Any]:
        names = self.class_names
        changes = [
            {
                "video": change.video,
                "labels": [names[i] for i in change.labels],
                "before": names[change.before],
                "after": names[change.after],
            }
            for change in comparison.changes
        ]
        keys = ("other", "model", "common", "only_here", "only_there")
        return {key: getattr(comparison, key) for key in keys} | {"changes": changes}


def compare(result: EvaluationResult, other: str | os.PathLike[str]) -> EvaluationResult:
    """The result with its ``comparison``: videos whose best class is not that of the scores saved in folder ``other``.

    Videos are matched by name. A folder without saved scores, or with scores of another number of classes, is a
    ValueError.
    """
    saved, manifest = read_scores(other)
    classes = {len(row) for row in saved.values()}
    if classes - {len(result.class_names)}:
        raise ValueError(
            f"{other} has scores of {max(classes)} classes, the model here has {len(result.class_names)}: "
            "compare runs of models with the same classes."
        )
    changes = [
        Change(video, labels, int(saved[video].argmax()), int(after))
        for video, labels, after in zip(result.videos, result.labels, result.predicted, strict=True)
        if video in saved and saved[video].argmax() != after
    ]
    common = len(saved.keys() & set(result.videos))
    return replace(
        result,
        comparison=Comparison(
            other=os.fspath(other),
            model=str(manifest.get("model", "")),
            common=common,
            only_here=len(result.videos) - common,
            only_there=len(saved) - common,
            changes=changes,
        ),
    )


def table_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the accuracy table from ``EvaluationResult.to_dict()``, one a metric; what is not known is None."""
    published = {key: value for key, value in facts["published"].items() if isinstance(value, int | float)}
    return [
        {
            "model": facts["model"],
            "dataset": facts["dataset"]["name"],
            "split": facts["dataset"]["split"],
            "metric": name,
            "published": published.get(name),
            "measured": facts["metrics"].get(name),
            "difference": facts["differences"].get(name),
            "protocol": facts["protocol"],
            "videos": facts["videos"],
            "failed": facts["failed"],
            "seconds_per_video": facts["seconds_per_video"],
            "device": facts["device"],
            "precision": facts["precision"],
            "remark": facts["remark"],
        }
        for name in dict.fromkeys([*facts["metrics"], *published])
    ]


def class_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows like those of :func:`table_rows`, one a class: its average precision, called "AP: NAME"."""
    first = (table_rows(facts) or [{}])[0]
    empty = dict.fromkeys(("published", "difference"))
    return [
        {**first, "metric": f"AP: {row['name']}", **empty, "measured": row["average_precision"]}
        for row in facts.get("classes", ())
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
