"""Clips as this package and other libraries make them: for training from a video, for a test from its frames.

Training clips are some frames at a stride, of which a random part is resized to a square, mirrored by chance and
normalised; test clips have the short side resized and the centre cut out. mmaction2 reads with decord, PyTorchVideo
with PyAV; torchvision no longer reads videos, so only its test transform is here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import peers
import torch
from torch.utils.data import DataLoader

from videozoo.data import create_transform, open_video

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
SHORT_SIDE = 256


class Pipeline:
    """What all have in common; each makes of a video a training clip, if it reads videos, and of frames a test clip.

    training_clip(video): what a worker sends of one video.
    collate(clips): what a worker sends of several.
    network_input(batch, device): of that the normalised float32 (N, C, T, H, W) on the device.
    test_clip(frames): normalised float32 (1, C, T, H, W) of uint8 (T, H, W, C).
    """

    def __init__(self, frames: int, stride: int, size: int) -> None:
        self.frames, self.stride, self.size = frames, stride, size


class VideoZoo(Pipeline):
    """This package; `resize_backend` is that of its data config."""

    def __init__(self, frames: int, stride: int, size: int, resize_backend: str = "cv2") -> None:
        super().__init__(frames, stride, size)
        sampling = {"num_frames": frames, "stride": stride}
        look = {"size": size, "resize": SHORT_SIDE, "mean": MEAN, "std": STD, "resize_backend": resize_backend}
        self.train = create_transform(is_training=True, **sampling, **look)
        self.test = create_transform(**sampling, **look)

    def training_clip(self, video: str) -> torch.Tensor:
        with open_video(video, num_threads=1) as reader:
            return self.train.training_clip(reader)[0]

    def collate(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tuple(clips))

    def network_input(self, batch: torch.Tensor, device: str = "cpu") -> torch.Tensor:
        return self.train.normalize(batch, device)

    def test_clip(self, frames: np.ndarray) -> torch.Tensor:
        return self.test(frames)


class MMAction2(Pipeline):
    """mmaction2's transforms and its preprocessor, which normalises in the training process."""

    def __init__(self, frames: int, stride: int, size: int) -> None:
        super().__init__(frames, stride, size)
        peers.load_peer("mmaction2")
        importlib.import_module("mmaction.datasets.transforms")
        importlib.import_module("mmaction.models")
        importlib.import_module("mmengine.registry").init_default_scope("mmaction")
        registry = importlib.import_module("mmaction.registry")
        end = [{"type": "FormatShape", "input_format": "NCTHW"}, {"type": "PackActionInputs"}]
        short_side = {"type": "Resize", "scale": (-1, SHORT_SIDE)}
        read = [
            {"type": "DecordInit", "io_backend": "disk", "num_threads": 1},
            {"type": "SampleFrames", "clip_len": frames, "frame_interval": stride, "num_clips": 1},
            {"type": "DecordDecode"},
        ]
        augment = [
            short_side,
            {"type": "RandomResizedCrop"},
            {"type": "Resize", "scale": (size, size), "keep_ratio": False},
            {"type": "Flip", "flip_ratio": 0.5},
        ]
        build = registry.TRANSFORMS.build
        self.train = [build(step) for step in (*read, *augment, *end)]
        self.test = [build(step) for step in (short_side, {"type": "CenterCrop", "crop_size": size}, *end)]
        moments = {"mean": [255 * x for x in MEAN], "std": [255 * x for x in STD]}
        self.preprocessor = registry.MODELS.build(
            {"type": "ActionDataPreprocessor", "format_shape": "NCTHW", **moments}
        )

    def training_clip(self, video: str) -> dict[str, Any]:
        return self._run(self.train, {"filename": video, "label": 0, "start_index": 0, "modality": "RGB"})

    def collate(self, clips: Sequence[dict[str, Any]]) -> Any:
        return importlib.import_module("mmengine.dataset").pseudo_collate(list(clips))

    def network_input(self, batch: Any, device: str = "cpu") -> torch.Tensor:
        return self.preprocessor.to(device)(batch, training=True)["inputs"].flatten(0, 1)

    def test_clip(self, frames: np.ndarray) -> torch.Tensor:
        facts = {"original_shape": frames.shape[1:3], "img_shape": frames.shape[1:3], "label": 0, "modality": "RGB"}
        results = {"imgs": list(frames), "num_clips": 1, "clip_len": len(frames), **facts}
        return self.network_input(self.collate([self._run(self.test, results)]))

    def _run(self, steps: Sequence[Callable], results: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            results = step(results)
        return results


class PyTorchVideo(Pipeline):
    """PyTorchVideo's reader and transforms, which make normalised clips in the workers."""

    def __init__(self, frames: int, stride: int, size: int) -> None:
        super().__init__(frames, stride, size)
        peers.load_peer("pytorchvideo")
        theirs = importlib.import_module("pytorchvideo.transforms")
        vision = importlib.import_module("torchvision.transforms.v2")
        self.encoded_video = importlib.import_module("pytorchvideo.data.encoded_video").EncodedVideo
        norm = [theirs.UniformTemporalSubsample(frames), theirs.Div255(), theirs.Normalize(MEAN, STD)]
        crop = theirs.RandomResizedCrop(size, size, scale=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3))
        self.train = vision.Compose([*norm, crop, vision.RandomHorizontalFlip()])
        self.test = vision.Compose([*norm, theirs.ShortSideScale(SHORT_SIDE), vision.CenterCrop(size)])

    def training_clip(self, video: str) -> torch.Tensor:
        reader = self.encoded_video.from_path(video, decode_audio=False)
        rate = float(reader._container.streams.video[0].average_rate)
        seconds = self.frames * self.stride / rate
        start = float(torch.rand(())) * max(0.0, float(reader.duration) - seconds)
        clip = reader.get_clip(start, start + seconds)["video"]
        reader.close()
        return self.train(clip)

    def collate(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tuple(clips))

    def network_input(self, batch: torch.Tensor, device: str = "cpu") -> torch.Tensor:
        return batch.to(device)

    def test_clip(self, frames: np.ndarray) -> torch.Tensor:
        return self.test(torch.from_numpy(frames).permute(3, 0, 1, 2).float())[None]


class TorchVision(Pipeline):
    """torchvision's preset for its video networks."""

    def __init__(self, frames: int, stride: int, size: int) -> None:
        super().__init__(frames, stride, size)
        presets = importlib.import_module("torchvision.transforms._presets")
        self.test = presets.VideoClassification(crop_size=(size, size), resize_size=(SHORT_SIDE,), mean=MEAN, std=STD)

    def test_clip(self, frames: np.ndarray) -> torch.Tensor:
        return self.test(torch.from_numpy(frames).permute(0, 3, 1, 2))[None]


PIPELINES: dict[str, type[Pipeline]] = {
    "videozoo": VideoZoo,
    "mmaction2": MMAction2,
    "pytorchvideo": PyTorchVideo,
    "torchvision": TorchVision,
}


def reads_videos(kind: type[Pipeline]) -> bool:
    """Whether a library's pipeline begins with a file."""
    return hasattr(kind, "training_clip")


class _Clips(torch.utils.data.Dataset):
    """The same video so many times."""

    def __init__(self, pipeline: Any, video: str, count: int) -> None:
        self.pipeline, self.video, self.count = pipeline, video, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.pipeline.training_clip(self.video)


def training_loader(pipeline: Any, video: str, clips: int, batch: int, workers: int) -> DataLoader:
    """Batches of training clips as workers send them; `pipeline.network_input` makes tensors of them."""
    return DataLoader(
        _Clips(pipeline, video, clips),
        batch,
        num_workers=workers,
        collate_fn=pipeline.collate,
        persistent_workers=workers > 0,
    )
