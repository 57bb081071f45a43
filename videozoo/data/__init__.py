"""Frames, sampling and transforms. Knows no model; decoders are imported when a file is opened."""

from .config import DATA_DEFAULTS, TRAIN_DEFAULTS, resolve_data_config, resolve_model_data_config
from .pyav import PyAVReader
from .reader import ArrayReader, ImageFolderReader, TorchcodecReader, VideoError, VideoReader, open_video
from .resize import rescale_size, resize_bilinear_cv2
from .sampling import ava_clip, dense_clips, proposal_clips, sample_views, uniform_clips, untrimmed_clips
from .transforms import ClipTransform, ClipViews, create_transform

__all__ = [
    "DATA_DEFAULTS",
    "TRAIN_DEFAULTS",
    "ArrayReader",
    "ClipTransform",
    "ClipViews",
    "ImageFolderReader",
    "PyAVReader",
    "TorchcodecReader",
    "VideoError",
    "VideoReader",
    "ava_clip",
    "create_transform",
    "dense_clips",
    "open_video",
    "proposal_clips",
    "rescale_size",
    "resize_bilinear_cv2",
    "resolve_data_config",
    "resolve_model_data_config",
    "sample_views",
    "uniform_clips",
    "untrimmed_clips",
]
