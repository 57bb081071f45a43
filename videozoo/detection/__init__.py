"""Action detection around the networks: persons, their boxes and tracks, the stream over a video, what is drawn."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .boxes import (
        assign_boxes,
        box_iou,
        detection_loss,
        jitter_boxes,
        keep_proposals,
        relative_boxes,
        split_by_clip,
        top_actions,
        training_boxes,
    )
    from .drawing import Person, VideoWriter, draw_persons
    from .persons import detect_persons, person_detector, person_source, read_boxes
    from .report import detection_report
    from .stream import Moment, action_names, moments, write_annotated
    from .tracks import BoxTracker
    from .video import Findings, detect

_HOMES = {
    "boxes": (
        "assign_boxes",
        "box_iou",
        "detection_loss",
        "jitter_boxes",
        "keep_proposals",
        "relative_boxes",
        "split_by_clip",
        "top_actions",
        "training_boxes",
    ),
    "drawing": ("Person", "VideoWriter", "draw_persons"),
    "persons": ("detect_persons", "person_detector", "person_source", "read_boxes"),
    "report": ("detection_report",),
    "stream": ("Moment", "action_names", "moments", "write_annotated"),
    "tracks": ("BoxTracker",),
    "video": ("Findings", "detect"),
}

__all__ = [
    "BoxTracker",
    "Findings",
    "Moment",
    "Person",
    "VideoWriter",
    "action_names",
    "assign_boxes",
    "box_iou",
    "detect",
    "detect_persons",
    "detection_loss",
    "detection_report",
    "draw_persons",
    "jitter_boxes",
    "keep_proposals",
    "moments",
    "person_detector",
    "person_source",
    "read_boxes",
    "relative_boxes",
    "split_by_clip",
    "top_actions",
    "training_boxes",
    "write_annotated",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
