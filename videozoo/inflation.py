"""Starting from images: torchvision's ImageNet weights in a video network, repeated over time.

A k x k filter becomes a t x k x k one by repeating it t times and dividing it by t, so that a clip that stands still is
seen as the image was (I3D: Carreira and Zisserman, CVPR 2017, arXiv:1705.07750). Norms are copied with their
statistics. A first convolution with other than three input channels (optical flow) repeats the mean over the colours
(Temporal Segment Networks: Wang et al., ECCV 2016, arXiv:1608.00859). What an image network does not have is left as
it was drawn: non-local blocks, temporal modules, necks, classifiers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from . import hub
from .catalog import Entry
from .checkpoint import load_strict
from .download import DownloadError
from .models.resnet2d import DEPTHS

__all__ = ["InflationReport", "image_network", "inflate_state_dict", "load_imagenet"]

ADDRESS = "https://download.pytorch.org/models/{network}-{hash}.pth"
HASHES = {  # of the weights that torchvision calls IMAGENET1K_V1
    "resnet18": "f37072fd",
    "resnet34": "b627a593",
    "resnet50": "0676ba61",
    "resnet101": "63fe2227",
    "resnet152": "394f9c45",
    "mobilenet_v2": "b0353104",
}
COUNTER = "num_batches_tracked"
CLASSIFIERS = ("fc.", "classifier.")  # of the image networks
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InflationReport:
    """Which entries of a model's state dict came from an image network."""

    network: str
    """Name of the image network in torchvision: ``resnet50``."""
    loaded: tuple[str, ...]
    inflated: tuple[str, ...]
    """Those of ``loaded`` that were repeated over time."""
    drawn: tuple[str, ...]
    """All others but the counters of batch norms; these were left as they were drawn."""

    def __str__(self) -> str:
        modules = sorted({key.rsplit(".", 1)[0] for key in self.drawn})
        left = f"{', '.join(modules[:6])}{', ...' if len(modules) > 6 else ''}" if modules else "nothing"
        return (
            f"ImageNet weights of {self.network}: {len(self.loaded)} tensors, {len(self.inflated)} of them inflated "
            f"over time; left as drawn: {len(self.drawn)} ({left})"
        )


def image_network(model: nn.Module) -> str:
    """torchvision's name of the image network that ``model`` is built on: ``resnet50``, ``mobilenet_v2``.

    Raises:
        ValueError: it is built on none.
    """
    prefix = _trunk(model)
    if f"{prefix}features.18.0.weight" in model.state_dict():
        return "mobilenet_v2"
    trunk = model.get_submodule(prefix.removesuffix("."))
    if hasattr(trunk, "layer4"):
        is_bottleneck = hasattr(trunk.layer1[0], "conv3")
        blocks = tuple(len(getattr(trunk, f"layer{stage}")) for stage in range(1, 5))
        for depth, counts in DEPTHS.items():
            if counts == blocks and is_bottleneck == (depth >= 50):
                return f"resnet{depth}"
    raise _no_inflation(model, "it is built on neither a ResNet nor a MobileNetV2")


def _trunk(model: nn.Module) -> str:
    """What the names of the trunk's parameters begin with: ``trunk.``, or nothing."""
    first = getattr(model, "first_conv", ())
    if len(first) > 1:
        raise _no_inflation(model, f"it begins with {' and '.join(first)}, an image network with one convolution")
    for end in ("conv1", "features.0.0"):
        if first and (first[0] == end or first[0].endswith(f".{end}")):
            return first[0].removesuffix(end)
    raise _no_inflation(model, "it does not begin as an image network does")


def _no_inflation(model: nn.Module, reason: str) -> ValueError:
    title = getattr(model, "title", type(model).__name__)
    return ValueError(
        f"{title} cannot start from ImageNet weights: {reason}; use pretrained=True where weights are published, "
        "or train it from scratch."
    )


def inflate_state_dict(image_state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The part of ``model``'s state dict that the state dict of an image network fills, with the model's keys.

    ``image_state`` holds every tensor of :func:`image_network` (batch norms' counters may be missing), and each but the
    classifier's has a place of its shape; else ValueError names the first one that is wrong. Tensors are new where they
    were inflated, otherwise those of ``image_state``. ``model`` is not changed and may be on the meta device.
    """
    network, prefix, targets = image_network(model), _trunk(model), model.state_dict()
    for name in _layout(network):
        if name not in image_state and not name.startswith(CLASSIFIERS) and not name.endswith(COUNTER):
            raise ValueError(f"the image weights have no {name}: {network} is what this model is built on.")
    stem = f"{model.first_conv[0]}.weight"
    state = {}
    for name, value in image_state.items():
        if name.startswith(CLASSIFIERS):
            continue
        key = prefix + name
        if key not in targets:
            raise _no_inflation(model, f"it has no {key}, which the image network has")
        shape = targets[key].shape
        if key == stem and value.shape[1] != shape[1]:
            value = value.mean(1, keepdim=True).repeat(1, shape[1], 1, 1)
        if len(shape) == 5 and value.ndim == 4:
            value = value.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]
        if value.shape != shape:
            found, wanted = tuple(image_state[name].shape), tuple(shape)
            raise _no_inflation(model, f"its {key} is {wanted}, that of the image network is {found}")
        state[key] = value
    return state


def load_imagenet(model: nn.Module, cache_dir: str | os.PathLike | None = None) -> InflationReport:
    """Fill the trunk of ``model`` with torchvision's ImageNet weights, inflated over time; the rest stays as it is.

    The weights are those of torchvision's first release (IMAGENET1K_V1), which the published trainings started from:
    from the cache, or from torchvision's address, checked against the hash in the file's name. Nothing is fetched for a
    network that they do not fit. The report is logged at INFO, too.

    Args:
        model: with weights that are drawn already, so not on the meta device.
        cache_dir: instead of ``$VIDEOZOO_CACHE``.

    Raises:
        ValueError: the network is built on no image network.
        DownloadError: the weights are not in the cache and cannot be fetched.
        CheckpointError: the address gave another file.
    """
    network = image_network(model)
    inflate_state_dict(_layout(network), model)
    state = inflate_state_dict(_imagenet_state(network, cache_dir), model)
    own = model.state_dict()
    load_strict(model, {**own, **state}, source=f"torchvision's {network}")
    report = InflationReport(
        network=network,
        loaded=tuple(state),
        inflated=tuple(key for key, value in state.items() if value.ndim == 5 and value.shape[2] > 1),
        drawn=tuple(key for key in own if key not in state and not key.endswith(COUNTER)),
    )
    _log.info("%s", report)
    return report


@cache
def _layout(network: str) -> dict[str, Tensor]:
    """The state dict of an image network without memory behind it."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return get_model(network).state_dict()


def _imagenet_state(network: str, cache_dir: Any) -> dict[str, Tensor]:
    url = ADDRESS.format(network=network, hash=HASHES[network])
    entry = Entry(network, "tv_in1k", network, "imagenet", "in1k", 1000, url=url, hash_prefix=HASHES[network])
    target = hub.cached_weights(entry.full_name, cache_dir)
    try:
        return hub.published_state(entry, dict, target, progress=True)
    except DownloadError as error:
        raise DownloadError(
            f"The ImageNet weights of {network} are not in the cache ({target}) and could not be fetched: {error} "
            "Fetch it on a machine that has the network, and copy it there."
        ) from error
