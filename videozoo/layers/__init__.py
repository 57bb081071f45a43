"""Blocks that have a name in the literature and several users among the models."""

from .checkpointing import checkpoint_block
from .conv_norm import Conv3d, ConvChain, ConvNorm, channels_last, conv_norm, weights_channels_last
from .depthwise import DepthwiseConv3d
from .non_local import NonLocal3d
from .pooling import MaxPoolPairs, window_means
from .temporal_shift import TemporalShift

__all__ = [
    "Conv3d",
    "ConvChain",
    "ConvNorm",
    "DepthwiseConv3d",
    "MaxPoolPairs",
    "NonLocal3d",
    "TemporalShift",
    "channels_last",
    "checkpoint_block",
    "conv_norm",
    "weights_channels_last",
    "window_means",
]
