"""Keys of MMAction2 0.x checkpoints: ``backbone.layer1.0.conv1.conv.weight`` -> ``layer1.0.conv1.weight``.

There a convolution and its norm are one module with the parts ``conv`` and ``bn``; temporal shift and non-local blocks
wrap the module that they act on (``net``, ``block``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Applied in order to each key. First the whole network, then what wraps a layer, then convolution and norm.
RULES = [
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "fc."),
    # SlowFast
    (r"^slow_path\.conv1_lateral\.conv\.", "lateral1."),
    (r"^slow_path\.layer1_lateral\.conv\.", "lateral2."),
    (r"^slow_path\.layer2_lateral\.conv\.", "lateral3."),
    (r"^slow_path\.layer3_lateral\.conv\.", "lateral4."),
    (r"^(slow|fast)_path\.", r"\1."),
    # non-local block: in I3D a part of the residual block, in TSM around it
    (r"\.block\.", "."),
    (r"\.non_local_block\.(g|phi)\.(?:0\.)?conv\.", r".non_local.\1."),
    (r"\.non_local_block\.theta\.conv\.", ".non_local.theta."),
    (r"\.non_local_block\.conv_out\.conv\.", ".non_local.out."),
    (r"\.non_local_block\.conv_out\.bn\.", ".non_local.norm."),
    # temporal shift around the first convolution
    (r"\.net\.", "."),
    # convolution and norm
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\bconv(\d)\.conv\.", r"conv\1."),
    (r"\bconv(\d)\.bn\.", r"bn\1."),
]

MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # inverted residual blocks in layer1 to layer7


def matches(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of an MMAction2 recogniser."""
    return any(k.startswith("backbone.") for k in keys) and any(k.startswith("cls_head.") for k in keys)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with our keys; keys that no rule knows stay, so that strict loading names them."""
    rename = mobilenet_key if "backbone.layer1.0.conv.0.conv.weight" in state else resnet_key
    converted = {rename(key): value for key, value in state.items()}
    if any(".non_local." in key for key in converted) and any(".block." in key for key in state):
        # TSM's non-local block works on frames folded into the batch, one module further down.
        converted = {key.replace(".non_local.", ".non_local.block."): value for key, value in converted.items()}
    return converted


def resnet_key(key: str) -> str:
    """One key of a ResNet, 2-D or 3-D."""
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


def mobilenet_key(key: str) -> str:
    """One key of MobileNetV2, whose blocks are numbered through as in torchvision."""
    key = key.removeprefix("backbone.").replace(".net.", ".").replace("cls_head.fc_cls.", "fc.")
    key = re.sub(r"^conv1\.", "features.0.", key)
    key = re.sub(r"^conv2\.", f"features.{sum(MOBILENET_BLOCKS) + 1}.", key)
    match = re.match(r"layer(\d)\.(\d)\.conv\.(\d)\.(conv|bn)\.(.*)", key)
    if match:
        layer, block, part = (int(match.group(i)) for i in (1, 2, 3))
        number = 1 + sum(MOBILENET_BLOCKS[: layer - 1]) + block
        is_bn = match.group(4) == "bn"
        last = 1 if layer == 1 else 2  # the projection, which has no activation; layer1 does not expand
        inner = f"{part + is_bn}" if part == last else f"{part}.{int(is_bn)}"
        return f"features.{number}.conv.{inner}.{match.group(5)}"
    return re.sub(r"^(features\.\d+)\.(conv|bn)\.", lambda m: f"{m[1]}.{int(m[2] == 'bn')}.", key)
