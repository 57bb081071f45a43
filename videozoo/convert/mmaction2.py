"""Keys of MMAction2 0.x checkpoints: ``backbone.layer1.0.conv1.conv.weight`` -> ``layer1.0.conv1.weight``.

There a convolution and its norm are one module with the parts ``conv`` and ``bn``; temporal shift and non-local blocks
wrap the module that they act on (``net``, ``block``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .shared import fast_first

# Applied in order to each key. First the whole network, then what wraps a layer, then convolution and norm.
RULES = [
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "fc."),
    (r"^roi_head\.bbox_head\.fc_cls\.", "fc."),
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
    # CSN: the depthwise convolution is alone in a list
    (r"\.conv2\.0\.conv\.", ".conv2."),
    (r"\.conv2\.0\.bn\.", ".bn2."),
    # X3D
    (r"^conv1_s\.conv\.", "conv1."),
    (r"^conv1_t\.conv\.", "conv1_t."),
    (r"^conv1_t\.bn\.", "bn1."),
    (r"\.se_module\.", ".se."),
    (r"^cls_head\.fc1\.", "fc1."),
    (r"^cls_head\.fc2\.", "fc."),
    # C3D
    (r"^conv(\d)([ab])\.conv\.", lambda m: f"layer{m[1]}.{'ab'.index(m[2])}.conv."),
    # TIN: the interlacing module and the convolution behind it
    (r"\.conv1\.conv\.net1\.", ".before."),
    (r"\.conv1\.conv\.net2\.", ".conv1."),
    # TANet: global and local branch
    (r"\.tam\.G\.", ".tam.kernel."),
    (r"\.tam\.L\.", ".tam.gate."),
    # audio: a convolution along time and one along frequency, each with its norm
    (
        r"\bconv(\d)\.conv\.conv_([12])\.(conv|bn)\.",
        lambda m: f"conv{m[1]}.{'time' if m[2] == '1' else 'frequency'}.{int(m[3] == 'bn')}.",
    ),
    # TPN
    (r"^neck\.spatial_modulation\.spatial_modulation\.0\.0\.", "neck.spatial."),
    (r"^neck\.temporal_modulation_ops\.(\d)\.conv\.conv\.", r"neck.temporal.\1."),
    (r"^neck\.downsample_ops\.0\.conv\.conv\.", "neck.up."),
    (r"^neck\.level_fusion_1\.", "neck.top_down."),
    (r"^neck\.level_fusion_2\.", "neck.bottom_up."),
    (r"^neck\.(\w+)\.downsamples\.(\d)\.conv\.", r"neck.\1.levels.\2."),
    (r"^neck\.(\w+)\.fusion_conv\.", r"neck.\1.fuse."),
    (r"^neck\.pyramid_fusion\.", "neck.fuse."),
    (r"^neck\.aux_head\.", "aux."),
    (r"^((?:neck|aux)\..*)\.(conv|bn)\.(\w+)$", lambda m: f"{m[1]}.{int(m[2] == 'bn')}.{m[3]}"),
    # SSN
    (r"^cls_head\.(activity|completeness)_fc\.", r"\1."),
    (r"^cls_head\.regressor_fc\.", "regression."),
    # convolution and norm
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\bconv(\d)\.conv\.", r"conv\1."),
    (r"\bconv(\d)\.bn\.", r"bn\1."),
    (r"\.bn_s\.", ".bn."),  # inside R(2+1)D's split convolutions
]

IPCSN_RULES = [  # to be applied first: the list has a plain 1x1x1 convolution too
    (r"\.conv2\.0\.(?:conv\.)?weight$", ".conv2.mix.weight"),
    (r"\.conv2\.0\.bn\.", ".conv2.norm."),
    (r"\.conv2\.1\.conv\.", ".conv2.depthwise."),
    (r"\.conv2\.1\.bn\.", ".bn2."),
]
IPCSN_EPS = 1e-3  # of ip-CSN's batch norms

DETECTOR_CLASSIFIER = "roi_head.bbox_head.fc_cls.weight"

BMN_PARTS = {
    "x_1d_b.": "base.",
    "x_1d_s.": "start.",
    "x_1d_e.": "end.",
    "x_1d_p.": "segment.",
    "x_3d_p.0.": "sampling.",
    "x_2d_p.": "confidence.",
}

MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # inverted residual blocks in layer1 to layer7


def matches(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of an MMAction2 recogniser, detector, SSN or BMN (BSN's keys are ours)."""
    heads = ("cls_head.", "roi_head.")
    has_trunk = any(k.startswith("backbone.") for k in keys)
    return "x_1d_b.0.weight" in keys or (has_trunk and any(k.startswith(heads) for k in keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with our keys; keys that no rule knows stay, so that strict loading names them."""
    if "x_1d_b.0.weight" in state:
        return bmn_state(state)
    if any(key.startswith("neck.") for key in state):
        state = {re.sub(r"^backbone\.", "backbone.trunk.", key): value for key, value in state.items()}
    if any(".conv2.1.conv." in key for key in state):
        state = ipcsn_state(state)
    rename = mobilenet_key if "backbone.layer1.0.conv.0.conv.weight" in state else resnet_key
    converted = {rename(key): value for key, value in state.items()}
    if DETECTOR_CLASSIFIER in state:
        converted |= detector_classifier(state)
    if any(".non_local." in key for key in converted) and any(".block." in key for key in state):
        # TSM's non-local block works on frames folded into the batch, one module further down.
        converted = {key.replace(".non_local.", ".non_local.block."): value for key, value in converted.items()}
    return converted


def detector_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's classifier without its first row, a background class that training never used.

    SlowFast's features are slow before fast there, those of the whole frame (context) after those of the box.
    """
    weight = state[DETECTOR_CLASSIFIER][1:].clone()
    if "backbone.slow_path.conv1.conv.weight" in state:
        features = state["backbone.slow_path.layer4.0.conv3.bn.weight"].shape[0] * 9 // 8
        weight = torch.cat([fast_first(part) for part in weight.split(features, dim=1)], dim=1)
    return {"fc.weight": weight, "fc.bias": state[DETECTOR_CLASSIFIER.replace("weight", "bias")][1:].clone()}


def bmn_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BMN, without the sampling matrix: it follows from the settings and was not learnt (128 MB of the file)."""
    converted = {}
    for key, value in state.items():
        part = next((part for part in BMN_PARTS if key.startswith(part)), "")
        if key != "sample_mask":
            converted[BMN_PARTS.get(part, "") + key.removeprefix(part)] = value
    return converted


def resnet_key(key: str) -> str:
    """One key of a ResNet, 2-D or 3-D."""
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


def ipcsn_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ip-CSN with the parts of its bottlenecks' middle by name.

    MMAction2 0.x had no norm after the plain convolution there: such files get norms that change nothing in evaluation.
    """
    converted = {}
    for key, value in state.items():
        for pattern, replacement in IPCSN_RULES:
            key = re.sub(pattern, replacement, key)
        converted[key] = value
    for key, value in list(converted.items()):
        norm = key.removesuffix("mix.weight") + "norm."
        if key.endswith(".conv2.mix.weight") and f"{norm}weight" not in converted:
            zeros = value.new_zeros(value.shape[0])
            identity = {"weight": zeros + 1, "bias": zeros, "running_mean": zeros, "running_var": zeros + 1 - IPCSN_EPS}
            converted |= {norm + name: tensor for name, tensor in identity.items()}
    return converted


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
