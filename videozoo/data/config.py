"""The flat data config: what one checkpoint wants from a video, resolved from its entry, the caller and defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

__all__ = ["DATA_DEFAULTS", "TRAIN_DEFAULTS", "resolve_data_config", "resolve_model_data_config"]

DATA_DEFAULTS: dict[str, Any] = {
    "modality": "rgb",  # "rgb" | "flow"
    "in_chans": 3,
    "sampling": "uniform",  # "uniform" | "dense" | "spread"
    "num_frames": 8,  # of a clip
    "stride": 8,
    "clips": 1,
    "segments": 1,  # clips that together are one network input
    "twice_sample": False,
    "positions": 10,  # dense sampling: groups of clips per video
    "stack": False,  # the num_frames fields of a flow segment become channels x1, y1, x2, y2, ...
    "resize": 256,  # short side; or (w, h): as large as fits, aspect kept; None: leave the frames as they are
    "keep_ratio": True,  # False: (w, h) of `resize` is the exact size, whatever the frames' shape
    "crops": 1,  # 1 | 3 | 10; 0: whole frames
    "size": 224,
    "average": "prob",  # "prob" | "score": what is averaged over views; "max": their largest probabilities
    "interpolation": "bilinear",
    "resize_backend": "cv2",  # "cv2" | "torch" | "torch_antialias"; "decoder": fast, see `ClipTransform`
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "value_range": (0, 1),  # what 0 and 255 become before mean and std apply
    "channel_order": "rgb",  # "rgb" | "bgr"
}
TRAIN_DEFAULTS: dict[str, Any] = {
    "train_crop": "random_resized_crop",  # | "multi_scale_crop" | "center"
    "scales": (1.0, 0.875, 0.75, 0.66),  # the rest of this block: see `multi_scale_crop`
    "max_scale_gap": 1,
    "fixed_crops": 5,
    "area": (0.08, 1.0),  # these two: see `random_resized_crop`
    "aspect": (3 / 4, 4 / 3),
    "hflip": 0.5,  # probability
    "flip_labels": None,  # pairs of classes, names or indices, that a mirrored clip swaps; None: the data set's
    "color_jitter": None,  # (brightness, contrast, saturation, hue)
    "rand_augment": None,  # (operations, magnitude of 0..30)
    "erasing": 0.0,  # probability that a box of all frames becomes noise
    "box_jitter": 0.0,  # detectors: share of a person's box by which its sides move at random
}
_TOP_KEYS = ("in_chans", "modality", "mean", "std", "value_range", "channel_order", "interpolation", "resize_backend")
_SAMPLING_KEYS = {"kind": "sampling", "frames": "num_frames"} | {key: key for key in ("stride", "segments", "stack")}
_TEST_KEYS = {"kind": "sampling", "twice": "twice_sample"} | {
    key: key for key in ("clips", "segments", "positions", "resize", "keep_ratio", "crops", "size", "average")
}
_TRAIN_KEYS = {"crop": "train_crop", "kind": "sampling", "segments": "segments", "resize": "resize", "size": "size"} | {
    key: key for key in TRAIN_DEFAULTS if key != "train_crop"
}


def resolve_data_config(
    args: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    use_test_size: bool = True,
) -> dict[str, Any]:
    """Everything the transforms need, as one flat dict with the keys of `DATA_DEFAULTS`.

    Priority: `args`, then `pretrained_cfg` (else `model.pretrained_cfg`), then the defaults; None in `args` means
    unset. `use_test_size=True` gives the entry's test protocol, and leaves keys of `TRAIN_DEFAULTS` in `args` alone;
    False its training protocol: one clip or segment set per video, the training crop size, and the keys of
    `TRAIN_DEFAULTS` on top. An unknown key in `args` is a TypeError.
    """
    if pretrained_cfg is None:
        pretrained_cfg = getattr(model, "pretrained_cfg", None) or {}
    if hasattr(pretrained_cfg, "to_dict"):
        pretrained_cfg = pretrained_cfg.to_dict()
    config = dict(DATA_DEFAULTS) if use_test_size else DATA_DEFAULTS | TRAIN_DEFAULTS
    config |= _from_pretrained(pretrained_cfg, use_test_size)
    args = {key: value for key, value in (args or {}).items() if value is not None}
    for key in args:
        if key not in DATA_DEFAULTS and key not in TRAIN_DEFAULTS:
            near = difflib.get_close_matches(key, [*DATA_DEFAULTS, *TRAIN_DEFAULTS], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(DATA_DEFAULTS)}."
            raise TypeError(f"data config has no key {key!r}: {hint}")
    config |= {key: value for key, value in args.items() if key in config}
    if not use_test_size:
        config |= {"clips": config["segments"], "crops": 1, "twice_sample": False}
    return config


def resolve_model_data_config(
    model: Any,
    args: Mapping[str, Any] | None = None,
    *,
    pretrained_cfg: Mapping[str, Any] | None = None,
    use_test_size: bool = True,
) -> dict[str, Any]:
    """`resolve_data_config` with the model first."""
    return resolve_data_config(args, model=model, pretrained_cfg=pretrained_cfg, use_test_size=use_test_size)


def _from_pretrained(cfg: Mapping[str, Any], use_test_size: bool) -> dict[str, Any]:
    """The fields of a pretrained_cfg, flattened. Nested tables override in the order sampling, test or train."""
    flat = {key: cfg[key] for key in _TOP_KEYS if cfg.get(key) is not None}
    if cfg.get("size") is not None:
        flat["size"] = cfg["size"]
    tables = [("sampling", _SAMPLING_KEYS), ("test", _TEST_KEYS) if use_test_size else ("train", _TRAIN_KEYS)]
    for name, names in tables:
        table = cfg.get(name) or {}
        unknown = sorted(set(table) - set(names))
        if unknown:
            raise TypeError(f"pretrained_cfg[{name!r}] has unknown key {unknown[0]!r}: known are {', '.join(names)}.")
        flat |= {names[key]: value for key, value in table.items() if value is not None or key == "resize"}
    return flat
