"""Networks of other libraries, for those of them that are installed, and their weights in ours.

Each builder gives a module that takes clips ``(N, C, T, H, W)`` and returns logits. What is missing is told by
:func:`missing_peers`; nothing of theirs is needed to run the benchmarks.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import videozoo
from videozoo.convert import convert

MODULES = {"mmaction2": "mmaction", "pytorchvideo": "pytorchvideo", "torchvision": "torchvision"}
LEFT_OUT = {
    "transformers": "none of its networks is in this zoo",
    "PySlowFast": "it has no release that pip installs",
}


def missing_peers() -> dict[str, str]:
    """Libraries that cannot be compared with here, each with the reason."""
    missing = {}
    for name in MODULES:
        try:
            load_peer(name)
        except ImportError as error:
            missing[name] = f"cannot be imported ({error})"
    return missing | LEFT_OUT


def load_peer(name: str) -> types.ModuleType:
    """The package of a library, made to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "mmaction2":
            _repair_mmaction()
        if name == "pytorchvideo":
            _repair_pytorchvideo()
        return importlib.import_module(MODULES[name])


def _repair_mmaction() -> None:
    """mmaction2 1.2.0 refuses mmcv from 2.2 on, and its wheel lacks a module: neither matters to the networks here."""
    if importlib.util.find_spec("mmcv") is None or "mmaction" in sys.modules:
        return
    mmcv = importlib.import_module("mmcv")
    mmcv.__version__ = min(mmcv.__version__, "2.1.0")
    _stub("mmaction.models.multimodal")
    _stub("mmaction.models.localizers.drn")
    _stub("mmaction.models.localizers.drn.drn").DRN = None


def _repair_pytorchvideo() -> None:
    """The transforms of pytorchvideo 0.1.5 import a module of torchvision under the name that it had before 0.17."""
    old = "torchvision.transforms.functional_tensor"
    if old not in sys.modules:
        sys.modules[old] = importlib.import_module("torchvision.transforms._functional_tensor")


def _stub(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
    sys.modules[name] = module
    return module


# mmaction2 -----------------------------------------------------------------------------------------------------------


class MMAction(nn.Module):
    """Backbone and head as a recogniser of mmaction2 runs them, without its wrapping of samples."""

    def __init__(self, backbone: dict[str, Any], head: dict[str, Any]) -> None:
        super().__init__()
        load_peer("mmaction2")
        importlib.import_module("mmaction.models")
        importlib.import_module("mmengine.registry").init_default_scope("mmaction")
        registry = importlib.import_module("mmaction.registry").MODELS
        self.backbone, self.cls_head = registry.build(backbone), registry.build(head)
        self.is_2d = backbone["type"] in ("ResNet", "ResNetTSM")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_2d:
            return self.cls_head(self.backbone(x))
        frames = x.shape[2]
        images = x.transpose(1, 2).flatten(0, 1)  # (N * T, C, H, W)
        return self.cls_head(self.backbone(images), frames)


def _head(kind: str, width: int = 2048, **more: Any) -> dict[str, Any]:
    return {"type": kind, "num_classes": 400, "in_channels": width, **more}


def _slow(kind: str = "ResNet3dSlowOnly", **more: Any) -> dict[str, Any]:
    """A 3-D ResNet-50 as mmaction2's configurations of the Slow pathway have it."""
    stem = {"conv1_kernel": (1, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "inflate": (0, 0, 1, 1)}
    return {"type": kind, "depth": 50, "pretrained": None, "lateral": False, "norm_eval": False, **stem, **more}


def mma_tsn() -> nn.Module:
    consensus = {"type": "AvgConsensus", "dim": 1}
    return MMAction({"type": "ResNet", "depth": 50, "norm_eval": False}, _head("TSNHead", consensus=consensus))


def mma_tsm() -> nn.Module:
    consensus = {"type": "AvgConsensus", "dim": 1}
    backbone = {"type": "ResNetTSM", "depth": 50, "norm_eval": False, "shift_div": 8, "num_segments": 8}
    return MMAction(backbone, _head("TSMHead", consensus=consensus, is_shift=True, num_segments=8))


def mma_i3d() -> nn.Module:
    inflate = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
    stem = {"conv1_kernel": (5, 7, 7), "conv1_stride_t": 2, "pool1_stride_t": 2, "inflate": inflate}
    backbone = {"type": "ResNet3d", "depth": 50, "pretrained2d": False, "norm_eval": False, **stem}
    return MMAction(backbone | {"zero_init_residual": False}, _head("I3DHead"))


def mma_slowonly() -> nn.Module:
    return MMAction(_slow(), _head("I3DHead"))


def mma_slowfast() -> nn.Module:
    slow = _slow("resnet3d", lateral=True, fusion_kernel=7, dilations=(1, 1, 1, 1))
    fast = _slow("resnet3d", base_channels=8, conv1_kernel=(5, 7, 7))
    del fast["inflate"]
    rates = {"resample_rate": 4, "speed_ratio": 4, "channel_ratio": 8}
    backbone = {"type": "ResNet3dSlowFast", "pretrained": None, **rates, "slow_pathway": slow, "fast_pathway": fast}
    return MMAction(backbone, _head("SlowFastHead", 2304))


def mma_x3d() -> nn.Module:
    backbone = {"type": "X3D", "gamma_w": 1, "gamma_b": 2.25, "gamma_d": 2.2}
    return MMAction(backbone, _head("X3DHead", 432, fc1_bias=False))


def mma_r2plus1d() -> nn.Module:
    backbone = _slow("ResNet2Plus1d", depth=34, conv1_kernel=(3, 7, 7), inflate=(1, 1, 1, 1), pretrained2d=False)
    backbone |= {"conv_cfg": {"type": "Conv2plus1d"}, "norm_cfg": {"type": "BN3d", "requires_grad": True, "eps": 1e-3}}
    backbone |= {"spatial_strides": (1, 2, 2, 2), "temporal_strides": (1, 2, 2, 2), "zero_init_residual": False}
    del backbone["lateral"]
    return MMAction(backbone, _head("I3DHead", 512))


def mma_csn() -> nn.Module:
    backbone = {
        "type": "ResNet3dCSN",
        "depth": 152,
        "pretrained": None,
        "pretrained2d": False,
        "with_pool2": False,
        "norm_eval": True,
    }
    return MMAction(backbone | {"bottleneck_mode": "ir", "zero_init_residual": False}, _head("I3DHead"))


# PyTorchVideo and torchvision ----------------------------------------------------------------------------------------


class TwoPathways(nn.Module):
    """PyTorchVideo's SlowFast with the packing of its clips, which it leaves to the transform."""

    def __init__(self, network: nn.Module, alpha: int) -> None:
        super().__init__()
        self.network, self.alpha = network, alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        picked = torch.linspace(0, x.shape[2] - 1, x.shape[2] // self.alpha, device=x.device).long()
        return self.network([x.index_select(2, picked), x])

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.network.state_dict(*args, **kwargs)


def ptv(name: str, alpha: int = 0) -> Callable[[], nn.Module]:
    """Builder of a network of PyTorchVideo's hub, giving logits where it gives probabilities."""

    def build() -> nn.Module:
        load_peer("pytorchvideo")
        network = getattr(importlib.import_module("pytorchvideo.models.hub"), name)(pretrained=False)
        network.blocks[-1].activation = None
        return TwoPathways(network, alpha) if alpha else network

    return build


def tv(name: str) -> Callable[[], nn.Module]:
    """Builder of a video network of torchvision."""
    return lambda: getattr(importlib.import_module("torchvision.models.video"), name)(num_classes=400)


# Weights -------------------------------------------------------------------------------------------------------------


def randomise(module: nn.Module) -> nn.Module:
    """Statistics and scales of the norms drawn at random (the same each time), as after training; in eval mode.

    Freshly built they are 0 and 1, which hides mistakes.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in ((part.running_mean, -0.1, 0.1), (part.running_var, 0.8, 1.2)):
                    tensor.uniform_(low, high, generator=draw)
                part.weight.uniform_(0.4, 0.8, generator=draw)
                part.bias.uniform_(-0.1, 0.1, generator=draw)
    return module.eval()


def same_in_ours(entry: str, peer: nn.Module) -> nn.Module:
    """Our network ``entry`` with the weights of ``peer``, as a checkpoint of theirs is loaded; in eval mode."""
    ours = videozoo.create_model(entry, pretrained=False)
    ours.load_state_dict(convert(peer.state_dict()), strict=True)
    return ours.eval()
