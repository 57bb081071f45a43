"""Keys of torchvision's video networks: ``layer1.0.conv1.0.0.weight`` -> ``layer1.0.conv1.conv_s.weight``.

In R3D, MC3 and R(2+1)D a convolution and its norm are a Sequential, a split convolution is a Sequential inside it.
S3D has our keys already but for its classifier, a 1x1x1 convolution there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Applied in order to each key; the first three are for the split convolutions of R(2+1)D.
BLOCK_RULES = [
    (r"\.conv(\d)\.0\.0\.", r".conv\1.conv_s."),
    (r"\.conv(\d)\.0\.1\.", r".conv\1.bn."),
    (r"\.conv(\d)\.0\.3\.", r".conv\1.conv_t."),
    (r"\.conv(\d)\.0\.", r".conv\1."),
    (r"\.conv(\d)\.1\.", r".bn\1."),
]
STEM = {"0": "conv1", "1": "bn1"}
SPLIT_STEM = {"0": "conv1.conv_s", "1": "conv1.bn", "3": "conv1.conv_t", "4": "bn1"}


def matches(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a video network of torchvision."""
    return _is_resnet(keys) or _is_s3d(keys)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with our keys; keys that no rule knows stay, so that strict loading names them."""
    if _is_s3d(state):
        return {key.replace("classifier.1.", "fc."): _as_linear(key, value) for key, value in state.items()}
    stem = SPLIT_STEM if "stem.3.weight" in state else STEM
    return {_resnet_key(key, stem): value for key, value in state.items()}


def _is_resnet(keys: Mapping[str, Tensor]) -> bool:
    return "stem.0.weight" in keys and "layer1.0.conv1.1.weight" in keys


def _is_s3d(keys: Mapping[str, Tensor]) -> bool:
    return "features.0.0.0.weight" in keys and "classifier.1.weight" in keys


def _resnet_key(key: str, stem: Mapping[str, str]) -> str:
    key = re.sub(r"^stem\.(\d)\.", lambda m: f"{stem.get(m[1], m[0])}.", key)
    for pattern, replacement in BLOCK_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def _as_linear(key: str, value: Tensor) -> Tensor:
    """The weight of a classifier that is a 1x1x1 convolution, (classes, features, 1, 1, 1) -> (classes, features)."""
    return value.flatten(1) if key == "classifier.1.weight" else value
