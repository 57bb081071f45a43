"""Keys of PyTorchVideo's networks: ``blocks.1.res_blocks.0.branch2.conv_a.weight`` -> ``layer1.0.conv1.weight``.

A network is a list of blocks there: the stem, the stages, the head. The same weights for use in PySlowFast have
``model.`` before every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .shared import State, fast_first, without_time

# A ResNet of stem, four stages and head; applied in order to each key.
RESNET_RULES = [
    # the stem of X3D: conv_t is the spatial convolution, conv_xy the temporal one
    (r"^blocks\.0\.conv\.conv_t\.", "conv1."),
    (r"^blocks\.0\.conv\.conv_xy\.", "conv1_t."),
    (r"^blocks\.0\.conv\.", "conv1."),
    (r"^blocks\.0\.norm\.", "bn1."),
    (r"^blocks\.5\.proj\.", "fc."),
    (r"^detection_head\.proj\.", "fc."),
    (r"^blocks\.(\d)\.res_blocks\.", r"layer\1."),
    # the head of X3D, and squeeze-and-excitation after the norm
    (r"^blocks\.5\.pool\.pre_conv\.", "conv5."),
    (r"^blocks\.5\.pool\.pre_norm\.", "bn5."),
    (r"^blocks\.5\.pool\.post_conv\.", "fc1."),
    (r"\.branch2\.norm_b\.0\.", ".bn2."),
    (r"\.branch2\.norm_b\.1\.block\.0\.", ".se.fc1."),
    (r"\.branch2\.norm_b\.1\.block\.2\.", ".se.fc2."),
    (r"\.branch1_conv\.", ".downsample.0."),
    (r"\.branch1_norm\.", ".downsample.1."),
    # the middle of R(2+1)D's bottlenecks
    (r"\.branch2\.conv_b\.conv_t\.", ".conv2.conv_t."),
    (r"\.branch2\.conv_b\.norm\.", ".conv2.bn."),
    (r"\.branch2\.conv_b\.conv_xy\.", ".conv2.conv_s."),
    (r"\.branch2\.conv_a\.", ".conv1."),
    (r"\.branch2\.norm_a\.", ".bn1."),
    (r"\.branch2\.conv_b\.", ".conv2."),
    (r"\.branch2\.norm_b\.", ".bn2."),
    (r"\.branch2\.conv_c\.", ".conv3."),
    (r"\.branch2\.norm_c\.", ".bn3."),
]


# The mobile form of X3D, which has PySlowFast's names but for the parts of a layer.
EFFICIENT_X3D_RULES = [
    (r"\.kernel\.conv\.", "."),
    (r"\.kernel\.bn\.", "_bn."),
    (r"^s1\.pathway0_stem_conv_xy\.", "conv1."),
    (r"^s1\.pathway0_stem_conv\.", "conv1_t."),
    (r"^s1\.pathway0_stem_conv_bn\.", "bn1."),
    (r"^s(\d)\.pathway0_res(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"\._res_proj\.", ".downsample.0."),
    (r"\._res_proj_bn\.", ".downsample.1."),
    (r"\.layers\.conv_(\d)\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layers\.conv_(\d)_bn\.", lambda m: f".bn{int(m[1]) + 1}."),
    (r"\.layers\.se\.se\.block\.0\.", ".se.fc1."),
    (r"\.layers\.se\.se\.block\.2\.", ".se.fc2."),
    (r"^head\.conv_5\.", "conv5."),
    (r"^head\.conv_5_bn\.", "bn5."),
    (r"^head\.lin_5\.", "fc1."),
    (r"^projection\.model\.", "fc."),
]
EFFICIENT_X3D_STEM = "s1.pathway0_stem_conv_xy.kernel.conv.weight"


def matches(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a PyTorchVideo network, with or without ``model.`` before them."""
    resnet = r"(?:model\.)?blocks\.\d+\.(?:multipathway_blocks\.\d\.)?res_blocks\."
    return EFFICIENT_X3D_STEM in keys or any(re.match(resnet, key) for key in keys)


def convert(state: Mapping[str, Tensor]) -> State:
    """State dict with our keys; keys that no rule knows stay, so that strict loading names them."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    if "blocks.0.multipathway_blocks.0.conv.weight" in state:
        converted = {slowfast_key(key): value for key, value in state.items()}
        if "fc.weight" in converted:
            converted["fc.weight"] = fast_first(converted["fc.weight"])
        return converted
    if EFFICIENT_X3D_STEM in state:
        converted = {_apply(EFFICIENT_X3D_RULES, key): value for key, value in state.items()}
    else:
        has_pool = not any(key.startswith("blocks.2.") for key in state)  # C2D, I3D: block 2 is a pool without weights
        converted = {resnet_key(_without_pool(key) if has_pool else key): value for key, value in state.items()}
    if "fc1.weight" in converted:
        converted["fc1.weight"] = converted["fc1.weight"].flatten(1)  # a 1x1x1 convolution there
    return without_time(converted)


def resnet_key(key: str) -> str:
    """One key of a network with one pathway."""
    return _apply(RESNET_RULES, key)


def slowfast_key(key: str) -> str:
    """One key of SlowFast, whose blocks hold one part a pathway and the lateral connection after them."""
    key = key.replace("blocks.6.proj.", "fc.").replace("detection_head.proj.", "fc.")
    key = re.sub(r"^blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow\.", lambda m: f"lateral{int(m[1]) + 1}.", key)
    key = re.sub(r"^blocks\.(\d)\.multipathway_fusion\.norm\.", lambda m: f"lateral_norm{int(m[1]) + 1}.0.", key)
    match = re.match(r"(blocks\.\d\.)multipathway_blocks\.([01])\.(.*)", key)
    return f"{('slow', 'fast')[int(match[2])]}.{resnet_key(match[1] + match[3])}" if match else key


def _without_pool(key: str) -> str:
    """The key of a network whose third block is a pool, numbered as if it were not there."""
    return re.sub(r"^blocks\.([3-6])\.", lambda m: f"blocks.{int(m[1]) - 1}.", key)


def _apply(rules: list, key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
