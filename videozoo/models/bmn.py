"""Boundary-Matching Network (Lin et al., ICCV 2019, arXiv:1907.09702).

One pass over the features of a video, ``(N, 400, T)`` with T = 100, gives start and end probabilities of every
position and two confidences for every pair of start and duration.

Special is how a pair's features are sampled: 32 points over the segment and half its length on both sides, each the
mean of 3 linear interpolations, then a convolution over the 32 points. Sampling and convolution are both linear, so
the convolution's weights may act on the T positions first; what is left is a weighted sum of a few of these products
for each pair, a sparse one with 1.5 % of the entries of the sampling matrix. Nothing of size 32 x T x T, which
fills most of the time and memory of the usual form, is ever made.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..registry import register_model
from .localizer import Localizer
from .recognizer import level


class BoundaryMatching(NamedTuple):
    """Probabilities of a video's segments.

    ``confidence`` is ``(N, 2, T, T)``: channel 0 regressed and 1 classified overlap with the best segment, rows
    durations (row d lasts d + 1 positions), columns starts. ``start`` and ``end`` are ``(N, T)``. Segments that would
    reach beyond the end of the video (column + row >= T) have confidences too, which mean nothing.
    """

    confidence: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor


@cache
def sampling_points(positions: int, points: int, mean_of: int, margin: float) -> tuple[np.ndarray, ...]:
    """Where and with which weight each segment takes its samples.

    The segment of row d and column s covers positions s to s + d, extended by ``margin`` times its length (d + 1) on
    both sides. Interpolation points beyond the first or last position count as zeros, except
    that those less than one position before the first count as the first.

    Returns:
        ``cells, point, position`` (int64) and ``weight`` (float32), one of each for every sample: cell is
        ``row * positions + column``; sorted by cell, point and position, no triple twice.
    """
    rows, columns = np.nonzero(np.add.outer(np.arange(positions), np.arange(positions)) < positions)
    first, last = columns.astype(float), (columns + rows).astype(float)
    reach = margin * (last - first + 1)
    steps = np.arange(points * mean_of)
    stride = ((last + reach) - (first - reach)) / (points * mean_of - 1)
    where = (first - reach)[:, None] + stride[:, None] * steps  # (cells, points * mean_of)
    below, above = np.trunc(where), np.ceil(where)
    part = where - below
    cell = np.broadcast_to((rows * positions + columns)[:, None], where.shape)
    point = np.broadcast_to(steps // mean_of, where.shape)
    shape = (positions**2, points, positions)
    keys, weights = [], []
    for place, weight in ((below, 1 - part), (above, part)):
        valid = (place >= 0) & (place < positions)
        keys.append(np.ravel_multi_index((cell[valid], point[valid], place[valid].astype(np.int64)), shape))
        weights.append(weight[valid])
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    weight = np.bincount(inverse, np.concatenate(weights)) / mean_of
    unique, weight = unique[weight != 0], weight[weight != 0]
    return *np.unravel_index(unique, shape), weight.astype(np.float32)


class SegmentSampling(nn.Module):
    """Features of every segment: ``(N, C, T)`` -> ``(N, out_chs, T, T)``, rows durations, columns starts.

    ``weight`` ``(out_chs, C, points, 1, 1)`` is that of the 3-D convolution over the sampled points. Segments beyond
    the end of the video get the bias alone.
    """

    def __init__(self, in_chs: int, out_chs: int, positions: int, points: int, mean_of: int, margin: float):
        super().__init__()
        self.positions, self.points, self.mean_of, self.margin = positions, points, mean_of, margin
        self.weight = nn.Parameter(torch.empty(out_chs, in_chs, points, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_chs))
        self.init_weights()

    def init_non_persistent_buffers(self) -> None:
        """Make the table of samples: for each segment which products are summed, and with which weights."""
        cells, point, position, weight = sampling_points(self.positions, self.points, self.mean_of, self.margin)
        offsets = np.searchsorted(cells, np.arange(self.positions**2))
        tables = {"index": position * self.points + point, "offset": offsets, "share": weight}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).to(self.weight.device), persistent=False)

    def init_weights(self) -> None:
        """As a convolution of PyTorch is drawn."""
        self.init_non_persistent_buffers()
        bound = (self.weight[0].numel()) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, out_chs = x.shape[0], len(self.weight)
        products = torch.einsum("nct,ocp->tpno", x, self.weight[..., 0, 0])
        products = products.reshape(self.positions * self.points, n * out_chs)
        sums = F.embedding_bag(
            self.index, products, self.offset, mode="sum", per_sample_weights=self.share.to(products.dtype)
        )  # (T*T, N*out_chs)
        maps = sums.view(self.positions, self.positions, n, out_chs).permute(2, 3, 0, 1)
        return maps + self.bias[:, None, None]


def _conv1d(in_chs: int, out_chs: int, kernel: int, groups: int = 1) -> nn.Conv1d:
    return nn.Conv1d(in_chs, out_chs, kernel, padding=kernel // 2, groups=groups)


class BMN(Localizer):
    """Boundary-Matching Network.

    Args:
        num_classes: must be 0.
        in_chans: width of the features.
        num_frames: positions T.
        hidden: channels over time; segments have twice as many after sampling, then half.
        points: samples of a segment.
        mean_of: interpolations that a sample is the mean of.
        margin: extension of a segment on both sides, as a share of its length.
    """

    def __init__(
        self,
        *,
        num_classes: int = 0,
        in_chans: int = 400,
        num_frames: int = 100,
        hidden: int = 256,
        points: int = 32,
        mean_of: int = 3,
        margin: float = 0.5,
    ):
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            num_features=hidden,
            feature_info=[level(hidden, (1, 1), "base.0"), level(hidden, (1, 1), "base.2")],
        )
        self.num_frames = num_frames
        self.base = nn.Sequential(
            _conv1d(in_chans, hidden, 3, 4), nn.ReLU(inplace=True), _conv1d(hidden, hidden, 3, 4), nn.ReLU(inplace=True)
        )
        self.start, self.end = (
            nn.Sequential(_conv1d(hidden, hidden, 3, 4), nn.ReLU(inplace=True), _conv1d(hidden, 1, 1), nn.Sigmoid())
            for _ in range(2)
        )
        self.segment = nn.Sequential(_conv1d(hidden, hidden, 3), nn.ReLU(inplace=True))
        self.sampling = SegmentSampling(hidden, hidden * 2, num_frames, points, mean_of, margin)
        self.confidence = nn.Sequential(
            nn.Conv2d(hidden * 2, hidden // 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden // 2, hidden // 2, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden // 2, hidden // 2, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden // 2, 2, 1),
            nn.Sigmoid(),
        )

    def forward_stage(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.base[2 * index + 1](self.base[2 * index](x))

    def forward_head(self, x: torch.Tensor) -> BoundaryMatching:
        segments = F.relu(self.sampling(self.segment(x)))  # (N, 2 * hidden, T, T)
        return BoundaryMatching(self.confidence(segments), self.start(x).squeeze(1), self.end(x).squeeze(1))

    def init_weights(self) -> None:
        super().init_weights()
        self.sampling.init_weights()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that put parameters into groups from input to output."""
        return {"stem": r"^base\.0\.", "blocks": r"^base\.2\."}


@register_model
def bmn(**kwargs) -> BMN:
    """BMN on 100 positions of 400 features."""
    return BMN(**kwargs)
