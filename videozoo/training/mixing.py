"""Mixup and CutMix on clips, and the loss on the soft targets that they make."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .config import TrainConfig

__all__ = ["Mixer", "clip_loss"]


class Mixer:
    """Mix each clip of a batch with another one, and their targets in the same shares.

    With both mixup and CutMix, each batch draws one of them; ``config.mix_prob`` is the share of batches that are mixed
    at all. Clips are paired around a random circle: none meets itself, but for the clip of a batch of one, which stays
    as it is.
    """

    def __init__(self, config: TrainConfig, num_classes: int):
        self.alphas = {"mixup": config.mixup, "cutmix": config.cutmix}
        self.kinds = [kind for kind, alpha in self.alphas.items() if alpha > 0]
        self.prob = config.mix_prob
        self.num_classes = num_classes

    def __call__(
        self, clips: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A mixed copy of the batch.

        Args:
            clips: normalised, ``(N, C, T, H, W)``; spectrograms ``(N, C, T, F)`` are mixed as well.
            targets: classes ``(N,)``, or their shares ``(N, num_classes)``: several ones for multi-label data.
            rng: source of all draws; the same one gives the same mixture.

        Returns:
            Clips, and float32 targets ``(N, num_classes)``, also where nothing was mixed.

        Raises:
            ValueError: clips that are not floating point.
        """
        if not clips.is_floating_point():
            raise ValueError(f"clips of {clips.dtype} cannot be mixed: normalise them first.")
        if targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes)
        targets = targets.float()
        if not self.kinds or rng.random() >= self.prob:
            return clips, targets
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        share = float(rng.beta(self.alphas[kind], self.alphas[kind]))
        circle = rng.permutation(len(clips))
        partners = torch.from_numpy(np.roll(circle, 1)[np.argsort(circle)]).to(clips.device)
        if kind == "cutmix":
            clips, share = _cut(clips, partners, share, rng)
        else:
            clips = torch.lerp(clips, clips[partners], 1 - share)
        return clips, torch.lerp(targets, targets[partners], 1 - share)


def _cut(
    clips: torch.Tensor, partners: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """CutMix (Yun et al., ICCV 2019, arXiv:1905.04899): one box, the same in all frames, comes from the partner.

    Returns the clips and the share of their area that is still their own: a box at the border is cut off.
    """
    height, width = clips.shape[-2:]
    side = (1 - share) ** 0.5  # of the box, in sides of the clip
    y, x = rng.random() * height, rng.random() * width
    top, bottom = (round(min(max(y + sign * side * height / 2, 0), height)) for sign in (-1, 1))
    left, right = (round(min(max(x + sign * side * width / 2, 0), width)) for sign in (-1, 1))
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[partners, ..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def clip_loss(
    logits: torch.Tensor, targets: torch.Tensor, config: TrainConfig, multi_label: bool = False
) -> torch.Tensor:
    """The mean loss of a batch, times ``config.loss_weight``; in float32, whatever the logits come in.

    Cross-entropy, or binary cross-entropy of each class on its own, averaged over classes, where ``multi_label``. Label
    smoothing (Szegedy et al., CVPR 2016, arXiv:1512.00567) takes a share of the target away and spreads it over all
    classes; of a multi-label target, over yes and no.

    Args:
        logits: ``(N, num_classes)``.
        targets: classes ``(N,)``, or shares ``(N, num_classes)`` as ``Mixer`` gives them; for ``multi_label`` the
            latter alone.
        config: its ``label_smoothing`` and ``loss_weight``.
        multi_label: a clip can have several classes or none.

    Raises:
        ValueError: targets that are neither.
    """
    logits = logits.float()
    if targets.shape != logits.shape and (multi_label or targets.shape != logits.shape[:1]):
        raise ValueError(
            f"targets {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}: give the shares of all classes"
            f"{'' if multi_label else ', or one class number for each clip'}."
        )
    targets = targets.float() if targets.ndim > 1 else targets
    smoothing = config.label_smoothing
    if multi_label:
        loss = F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)
    else:
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return config.loss_weight * loss
