"""Frames, sound, sampling, transforms and data sets. Knows no model; decoders are imported when a file is opened."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .audio import AudioTransform, Sound, audio_views, load_sound
    from .camera_motion import make_camera_motion
    from .config import DATA_DEFAULTS, TRAIN_DEFAULTS, resolve_data_config, resolve_model_data_config
    from .datasets import Dataset, load_dataset
    from .flow import FlowReader, compute_flow, write_flow
    from .folders import hold_out, load_folder
    from .leaks import find_leaks
    from .live import LiveVideo, follow_video, open_camera
    from .pyav import PyAVReader
    from .reader import ArrayReader, ImageFolderReader, TorchcodecReader, VideoError, VideoReader, open_video
    from .resize import rescale_size, resize_bilinear_cv2
    from .sampling import (
        ava_clip,
        dense_clips,
        proposal_clips,
        sample_views,
        spread_clips,
        uniform_clips,
        untrimmed_clips,
    )
    from .transforms import ClipTransform, ClipViews, create_transform

_HOMES = {
    "audio": ("AudioTransform", "Sound", "audio_views", "load_sound"),
    "config": ("DATA_DEFAULTS", "TRAIN_DEFAULTS", "resolve_data_config", "resolve_model_data_config"),
    "camera_motion": ("make_camera_motion",),
    "datasets": ("Dataset", "load_dataset"),
    "folders": ("hold_out", "load_folder"),
    "leaks": ("find_leaks",),
    "live": ("LiveVideo", "follow_video", "open_camera"),
    "flow": ("FlowReader", "compute_flow", "write_flow"),
    "pyav": ("PyAVReader",),
    "reader": ("ArrayReader", "ImageFolderReader", "TorchcodecReader", "VideoError", "VideoReader", "open_video"),
    "resize": ("rescale_size", "resize_bilinear_cv2"),
    "sampling": (
        "ava_clip",
        "dense_clips",
        "proposal_clips",
        "sample_views",
        "spread_clips",
        "uniform_clips",
        "untrimmed_clips",
    ),
    "transforms": ("ClipTransform", "ClipViews", "create_transform"),
}

__all__ = [
    "ArrayReader",
    "AudioTransform",
    "ClipTransform",
    "ClipViews",
    "DATA_DEFAULTS",
    "Dataset",
    "FlowReader",
    "ImageFolderReader",
    "LiveVideo",
    "PyAVReader",
    "Sound",
    "TRAIN_DEFAULTS",
    "TorchcodecReader",
    "VideoError",
    "VideoReader",
    "audio_views",
    "ava_clip",
    "compute_flow",
    "create_transform",
    "find_leaks",
    "follow_video",
    "hold_out",
    "dense_clips",
    "load_dataset",
    "load_folder",
    "load_sound",
    "make_camera_motion",
    "open_camera",
    "open_video",
    "proposal_clips",
    "rescale_size",
    "resize_bilinear_cv2",
    "resolve_data_config",
    "resolve_model_data_config",
    "sample_views",
    "spread_clips",
    "uniform_clips",
    "untrimmed_clips",
    "write_flow",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
