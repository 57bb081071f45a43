"""What every clip classifier offers beside its layers: timm's model surface, for clips.

A model states its stages in ``feature_info`` and implements ``forward_stage(index, x)``; everything else follows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..layers import channels_last, checkpoint_block, window_means

Features = torch.Tensor | tuple[torch.Tensor, ...]


class FeatureInfo:
    """Channels, reduction and module of each feature level, as timm's class of this name.

    ``reduction`` is a pair (time, space): by how much a level is coarser than the input clip.
    """

    def __init__(self, levels: Sequence[dict[str, Any]], out_indices: Sequence[int] | None = None):
        self.info = list(levels)
        self.out_indices = tuple(range(len(self.info))) if out_indices is None else tuple(out_indices)

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.info[index]

    def get(self, key: str, index: int | None = None) -> Any:
        """The value of ``key`` at level ``index``, or its list over ``out_indices``."""
        return self.info[index][key] if index is not None else [self.info[i][key] for i in self.out_indices]

    def channels(self, index: int | None = None) -> Any:
        return self.get("num_chs", index)

    def reduction(self, index: int | None = None) -> Any:
        return self.get("reduction", index)

    def module_name(self, index: int | None = None) -> Any:
        return self.get("module", index)


def level(num_chs: Any, reduction: Any, module: str) -> dict[str, Any]:
    """One entry of ``feature_info``."""
    return {"num_chs": num_chs, "reduction": reduction, "module": module}


def resolve_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Feature indices as a list of non-negative ints: None = all, an int n = the last n, negatives from the end."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ValueError(f"the last {indices} feature levels were asked for, the model has {count}")
        return list(range(count - indices, count))
    for i in indices:
        if not -count <= i < count:
            raise ValueError(f"feature index {i} is out of range: the model has {count} levels, 0 to {count - 1}")
    return [i % count for i in indices]


class Recognizer(nn.Module):
    """Base of clip classifiers: ``(N, in_chans, T, H, W)``, normalised float -> logits ``(N, num_classes)``.

    Args:
        num_classes: outputs of the classifier; 0 = none, the model returns pooled features.
        num_features: width of the pooled features.
        in_chans: input channels (3 = RGB, 2 = one optical-flow field, 10 = five stacked ones).
        feature_info: the stages, in order, as made by :func:`level`.
        drop_rate: dropout before the classifier.
        init_std: standard deviation of the classifier's initial weights.
    """

    classifier = "fc"
    auxiliary_classifier = ""  # a further classifier that only training uses, inside a module of its own
    first_conv: tuple[str, ...] = ("conv1",)
    num_frames: int | None = None  # frames that the network is tied to, if any
    min_frames = 1
    fixed_size: int | None = None  # height and width that the network is tied to, if any
    input_dims = 5
    pool_window = 0  # side of the window that the head averages over, in cells of the last features; 0 = all of them

    def __init__(
        self,
        *,
        num_classes: int,
        num_features: int,
        in_chans: int,
        feature_info: Sequence[dict[str, Any]],
        drop_rate: float = 0.5,
        init_std: float = 0.01,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features
        self.in_chans = in_chans
        self.feature_info = FeatureInfo(feature_info)
        self.global_pool = "avg"
        self.grad_checkpointing = False
        self.channels_last = False
        self.init_std = init_std
        self.pretrained_cfg: dict[str, Any] = {}
        self.head_drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()

    # ------------------------------------------------------------------ to be given by a model

    def forward_stage(self, index: int, x: Any) -> Any:
        """Stage ``index`` of ``feature_info``: from the output of the one before (0: from the input clip)."""
        raise TypeError(f"{type(self).__name__} must define forward_stage")

    def as_features(self, x: Any) -> Features:
        """The output of a stage as ``(N, C, T, H, W)``."""
        return x

    def pool_windows(self, x: Features) -> torch.Tensor:
        """``(N, C, T, H, W)`` -> ``(N, windows, num_features)``, see ``forward_windows``."""
        return window_means(x, self.pool_window)

    def pool(self, x: Features) -> torch.Tensor:
        """``(N, C, T, H, W)`` -> ``(N, num_features)``."""
        return self.pool_windows(x).mean(1)

    # ------------------------------------------------------------------ forward

    @property
    def title(self) -> str:
        """What messages call the model: its architecture, where it was made by name."""
        return self.pretrained_cfg.get("architecture") or type(self).__name__

    def check_input(self, x: torch.Tensor) -> None:
        """Raise ValueError unless ``x`` is ``(N, in_chans, T >= min_frames, H, W)``."""
        if x.ndim != 5 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"{self.title} expects clips (N, {self.in_chans}, T, H, W), got {tuple(x.shape)}: "
                "use x[None] for one clip, x.movedim(-1, -4) where channels are last, "
                "or create the model with in_chans=..."
            )
        self.check_dtype(x)
        if x.shape[2] < self.min_frames:
            raise ValueError(
                f"{self.title} needs clips of at least {self.min_frames} frames, got {x.shape[2]}: "
                "sample more frames (repeat the last one if the video is too short)"
            )

    def prepare_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, checked, in the memory layout that the layers work in: channels last on a CPU and where asked for."""
        self.check_input(x)
        return channels_last(x) if self.channels_last or x.device.type == "cpu" else x

    def check_dtype(self, x: torch.Tensor) -> None:
        """Raise ValueError unless ``x`` is floating point: frames as they are decoded are not."""
        if not x.is_floating_point():
            raise ValueError(
                f"{self.title} expects normalised floating-point input, got {x.dtype}: "
                "videozoo.create_transform(model) makes it from frames"
            )

    def forward_features(self, x: torch.Tensor) -> Features:
        """Features before pooling, ``(N, C, T', H', W')``."""
        held = [self.prepare_input(x)]  # a list gives its reference away, so that stages free inputs they have read
        for index in range(len(self.feature_info)):
            held.append(self.forward_stage(index, held.pop()))
        return self.as_features(held.pop())

    def forward_head(self, x: Features, pre_logits: bool = False) -> torch.Tensor:
        """Output of ``forward_features`` -> logits; ``pre_logits``: the input of the classifier, (N, num_features)."""
        if not self.global_pool:
            return x
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_windows(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of each window of the features, ``(N, windows, num_classes)``; ``forward`` gives their mean.

        There is one window unless the model has a ``pool_window`` and the clip is larger than the training crop.
        Checkpoints with a ``pool_window`` were tested on the mean of the windows' probabilities: a test that averages
        probabilities takes each window as a view of its own.
        """
        if not self.pool_window:
            return self(x)[:, None]
        return self.fc(self.head_drop(self.pool_windows(self.forward_features(x))))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of chosen stages, each ``(N, C, T', H', W')``.

        Args:
            x: clips (N, C, T, H, W).
            indices: levels of ``feature_info``; an int n takes the last n, None all.
            norm: no effect on networks without a final norm; kept for timm's signature.
            stop_early: do not run stages after the last one asked for.
            output_fmt: ``NCTHW``, the only layout of convolutional models.
            intermediates_only: return the list alone.

        Returns:
            ``(features, intermediates)``, or the list ``intermediates``. With ``stop_early`` features are those of
            the last stage that ran.
        """
        if output_fmt != "NCTHW":
            raise ValueError(f"output_fmt {output_fmt!r} is not offered by {type(self).__name__}: use 'NCTHW'")
        x = self.prepare_input(x)
        wanted = resolve_indices(indices, len(self.feature_info))
        last = max(wanted) if stop_early and wanted else len(self.feature_info) - 1
        outputs = {}
        for index in range(last + 1):
            x = self.forward_stage(index, x)
            if index in wanted:
                outputs[index] = self.as_features(x)
        intermediates = [outputs[i] for i in wanted]
        return intermediates if intermediates_only else (self.as_features(x), intermediates)

    def run_blocks(self, blocks: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        """A stage's residual blocks, each checkpointed if asked for (see ``set_grad_checkpointing``)."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return blocks(x)
        for block in blocks:
            x = checkpoint_block(block, x)
        return x

    # ------------------------------------------------------------------ timm's surface

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The classifier layer, or its name."""
        return self.classifier if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of ``num_classes`` outputs; 0 = none; ``global_pool=""`` also leaves out the pooling."""
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be 0 (no classifier) or more")
        if global_pool is not None:
            if global_pool not in ("", "avg"):
                raise ValueError(f"global_pool is 'avg' or '', got {global_pool!r}")
            self.global_pool = global_pool
        if not self.global_pool and num_classes:
            raise ValueError("a classifier needs pooled features: use global_pool='avg'")
        self.num_classes = num_classes
        weight = next(self.parameters())
        self.fc = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
            nn.init.normal_(self.fc.weight, std=self.init_std)
            nn.init.zeros_(self.fc.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that put parameters into groups from input to output, for layer-wise settings."""
        return {"stem": r"^(?:conv1|bn1)\.", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are never decayed."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    def init_weights(self) -> None:
        """Fill every parameter and buffer afresh (Kaiming normal convolutions, unit norms, small classifier)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.reset_parameters()
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=self.init_std)
            nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if module is not self and hasattr(module, "init_weights"):
                module.init_weights()


class ClipFeatures(nn.Module):
    """A model without its head: clips ``(N, C, T, H, W)`` -> list of stage outputs (``features_only=True``).

    Two-pathway models give a tuple of tensors for each level. ``feature_info.channels()`` and ``.reduction()``
    describe the levels of ``out_indices``.
    """

    def __init__(self, model: Recognizer, out_indices: int | Sequence[int] | None = None):
        super().__init__()
        self.model = model
        self.out_indices = resolve_indices(out_indices, len(model.feature_info))
        self.feature_info = FeatureInfo(model.feature_info.info, self.out_indices)
        self.in_chans = model.in_chans
        self.pretrained_cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in ("num_classes", "classifier")}
        model.reset_classifier(0)

    def forward(self, x: torch.Tensor) -> list[Features]:
        return self.model.forward_intermediates(x, self.out_indices, stop_early=True, intermediates_only=True)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the model's own."""
        self.model.set_grad_checkpointing(enable)


def group_parameters(model: nn.Module, coarse: bool = False) -> dict[int, list[str]]:
    """Parameter names by layer, 0 = stem to the last = head: for layer-wise learning rates and freezing.

    Follows the model's ``group_matcher``; what no expression matches (the classifier) is the last group.
    """
    matcher = model.group_matcher(coarse=coarse)
    keys: dict[str, tuple[float, ...]] = {}
    for name, _ in model.named_parameters():
        for rank, pattern in enumerate(matcher.values()):
            match = re.match(pattern, name)
            if match:
                keys[name] = (float(rank), *(float(g) for g in match.groups() if g is not None))
                break
        else:
            keys[name] = (float("inf"),)
    order = {key: i for i, key in enumerate(sorted(set(keys.values())))}
    groups: dict[int, list[str]] = {i: [] for i in range(len(order))}
    for name, key in keys.items():
        groups[order[key]].append(name)
    return groups
