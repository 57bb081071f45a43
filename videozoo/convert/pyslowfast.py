"""Keys of PySlowFast's networks: ``s2.pathway0_res0.branch2.a.weight`` -> ``layer1.0.conv1.weight``.

Stages are s1 (stem) to s5 there; pathway1 is the fast one. Its older files come from Caffe2 and have names of their own
(``res2_0_branch2a_w``), which are first brought to PySlowFast's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .shared import State, fast_first, without_time

# Applied in order to each key.
RULES = [
    (r"^s1\.(pathway\d)_stem\.conv\.", r"\1.conv1."),
    (r"^s1\.(pathway\d)_stem\.bn\.", r"\1.bn1."),
    (r"^s(\d)\.(pathway\d)_res(\d+)\.", lambda m: f"{m[2]}.layer{int(m[1]) - 1}.{m[3]}."),
    (r"\.branch1\.", ".downsample.0."),
    (r"\.branch1_bn\.", ".downsample.1."),
    (r"\.branch2\.([abc])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}."),
    (r"\.branch2\.([abc])_bn\.", lambda m: f".bn{'abc'.index(m[1]) + 1}."),
    (r"\.branch2\.se\.", ".se."),
    (r"^s(\d)\.(pathway\d)_nonlocal(\d+)\.", lambda m: f"{m[2]}.layer{int(m[1]) - 1}.{m[3]}.non_local."),
    (r"\.non_local\.conv_", ".non_local."),
    (r"\.non_local\.bn\.", ".non_local.norm."),
    (r"^s(\d)_fuse\.conv_f2s\.", r"lateral\1."),
    (r"^s(\d)_fuse\.bn\.", r"lateral_norm\1.0."),
    (r"^head\.projection\.", "fc."),
    (r"^head\.conv_5\.", "conv5."),
    (r"^head\.conv_5_bn\.", "bn5."),
    (r"^head\.lin_5\.", "fc1."),
]
X3D_STEM = [
    (r"^s1\.(pathway\d)_stem\.conv_xy\.", r"\1.conv1."),
    (r"^s1\.(pathway\d)_stem\.conv\.", r"\1.conv1_t."),
]

# Caffe2's names to PySlowFast's: first the layer, then its part.
CAFFE2_RULES = [
    (r"^(t_)?conv1_", lambda m: f"s1.{_pathway(m)}_stem.conv_"),
    (r"^(t_)?res_conv1_bn_", lambda m: f"s1.{_pathway(m)}_stem.bn_"),
    (r"^t_pool1_subsample_bn_", "s1_fuse.bn_"),
    (r"^t_pool1_subsample_", "s1_fuse.conv_f2s_"),
    (r"^t_res(\d)_\d+_branch2c_bn_subsample_bn_", r"s\1_fuse.bn_"),
    (r"^t_res(\d)_\d+_branch2c_bn_subsample_", r"s\1_fuse.conv_f2s_"),
    (r"^(t_)?res(\d)_(\d+)_branch1_", lambda m: f"s{m[2]}.{_pathway(m)}_res{m[3]}.branch1_"),
    (r"^(t_)?res(\d)_(\d+)_branch2([abc])_", lambda m: f"s{m[2]}.{_pathway(m)}_res{m[3]}.branch2.{m[4]}_"),
    (r"^nonlocal_conv(\d)_(\d+)_bn_", r"s\1.pathway0_nonlocal\2.bn_"),
    (r"^nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_", r"s\1.pathway0_nonlocal\2.conv_\3_"),
    (r"^pred_", "head.projection_"),
    (r"(bn)_s$", r"\1.weight"),
    (r"(bn)_rm$", r"\1.running_mean"),
    (r"(bn)_riv$", r"\1.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
]
TRAINING_BLOBS = re.compile(r"momentum|^lr$|model_iter")


def _pathway(match: re.Match[str]) -> str:
    return "pathway1" if match[1] else "pathway0"


def matches(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a convolutional network of PySlowFast, or Caffe2's names for them."""
    return "s1.pathway0_stem.bn.weight" in keys or is_caffe2(keys)


def is_caffe2(keys: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a Caffe2 file."""
    return "res_conv1_bn_riv" in keys


def convert(state: Mapping[str, Tensor]) -> State:
    """State dict with our keys; keys that no rule knows stay, so that strict loading names them."""
    if is_caffe2(state):
        state = from_caffe2(state)
    rules = X3D_STEM + RULES if "s1.pathway0_stem.conv_xy.weight" in state else RULES
    two_pathways = "s1.pathway1_stem.bn.weight" in state
    converted = {_renamed(key, rules, two_pathways): value for key, value in state.items()}
    if two_pathways and "fc.weight" in converted:
        converted["fc.weight"] = fast_first(converted["fc.weight"])
    if "fc1.weight" in converted:
        converted["fc1.weight"] = converted["fc1.weight"].flatten(1)  # a 1x1x1 convolution there
    return without_time(converted)


def _renamed(key: str, rules: list, two_pathways: bool) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    if two_pathways:
        return re.sub(r"^pathway(\d)\.", lambda m: ("slow.", "fast.")[int(m[1])], key)
    return key.removeprefix("pathway0.")


def from_caffe2(blobs: Mapping[str, Tensor]) -> State:
    """PySlowFast's keys for Caffe2's names, without what only training needs; convolutions get all five dimensions."""
    state = {}
    for name, value in blobs.items():
        if TRAINING_BLOBS.search(name):
            continue
        key = name
        for pattern, replacement in CAFFE2_RULES:
            key = re.sub(pattern, replacement, key)
        if value.ndim > 1 and not key.startswith("head."):
            value = value.reshape(*value.shape, *[1] * (5 - value.ndim))
        state[key] = value
    return state
