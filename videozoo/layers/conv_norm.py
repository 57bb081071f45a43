"""Convolution, norm, residual sum and activation: the sequence that every network here is made of, written once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SLOW_CONV3D_SIZE = 20480  # N*C*T*H up to which PyTorch leaves a small convolution of one clip to a slow kernel


def conv_norm(
    x: torch.Tensor,
    conv: nn.Module,
    norm: nn.Module | None = None,
    act: nn.Module | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``act(norm(conv(x)) + residual)``; one operation after :func:`videozoo.optimize` has folded the two modules.

    ``conv`` may be several convolutions, of which the last one is folded (see ``ConvChain``). A folded convolution may
    write its result over ``residual``, see ``videozoo.optimization``.
    """
    folded = getattr(conv, "folded", None)
    if folded is not None:
        return folded(x, act, residual)
    x = conv(x)
    if norm is not None:
        x = _norm_in_place(x, norm) if _can_norm_in_place(x, conv, norm) else norm(x)
    if residual is not None:
        x += residual
    return x if act is None else act(x)


def _norm_in_place(x: torch.Tensor, norm: _BatchNorm) -> torch.Tensor:
    """A batch norm in eval mode, written over its input: several times faster than PyTorch's into new memory."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale *= norm.weight
    shift = -norm.running_mean * scale
    if norm.affine:
        shift += norm.bias
    shape = (-1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape), out=x)


def _can_norm_in_place(x: torch.Tensor, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether it is faster (on a CPU, channels last) and nobody sees the output of ``conv`` or the call of ``norm``."""
    is_known = isinstance(conv, (nn.Conv2d, nn.Conv3d, ConvChain)) and isinstance(norm, _BatchNorm)
    if not is_known or norm.training or norm.running_mean is None:
        return False
    if torch.is_grad_enabled() or x.device.type != "cpu" or not x.dtype == norm.running_mean.dtype == torch.float32:
        return False
    is_hooked = any(module._forward_hooks or module._forward_pre_hooks for module in (norm, *conv.modules()))
    if is_hooked or _is_traced():
        return False
    return x.is_contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class ConvNorm(nn.Sequential):
    """Convolution and, if given, norm and activation, one after the other."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None = None, act: nn.Module | None = None):
        super().__init__(*(module for module in (conv, norm, act) if module is not None))
        self.conv_norms = (("0", "1" if norm is not None else None),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv_norm(x, *self)


class ConvChain(nn.Module):
    """Base of modules that do the work of one convolution by several: ``last_conv(lead(x))``."""

    @property
    def last_conv(self) -> nn.Module:
        """The convolution that gives the output."""
        raise TypeError(f"{type(self).__name__} must define last_conv")

    def lead(self, x: torch.Tensor) -> torch.Tensor:
        """All that comes before the last convolution."""
        raise TypeError(f"{type(self).__name__} must define lead")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_conv(self.lead(x))


class Conv3d(nn.Conv3d):
    """``nn.Conv3d``, as a convolution in two dimensions where PyTorch has no fast kernel for the one in three.

    On a CPU PyTorch leaves convolutions of one clip with few channels and small kernels to an old kernel that is
    several times slower than oneDNN's, and that forgets the layout of its input. Kernels of 1 x k x k and k x 1 x 1
    have the same result as convolutions of frames, and of time against places; for others oneDNN is called by its name
    where no gradient is wanted. Views are such that they give the one clip the stride it has in channels last: PyTorch
    takes another one, though never used, for another layout.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or x.shape[0] != 1 or x.shape[1:4].numel() > SLOW_CONV3D_SIZE or self.groups > 1:
            return super().forward(x)
        time, *space = self.kernel_size
        if time == 1 and self.padding[0] == 0:
            frames = x[0, :, :: self.stride[0]].transpose(0, 1)  # (T, C, H, W)
            args = (self.bias, self.stride[1:], self.padding[1:], self.dilation[1:])
            return F.conv2d(frames, self.weight[:, :, 0], *args)[None].transpose(1, 2)
        if space == [1, 1] and self.stride[1:] == (1, 1) and self.padding[1:] == (0, 0):
            args = (self.bias, (self.stride[0], 1), (self.padding[0], 0), (self.dilation[0], 1))
            places = x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)  # (1, C, T, H*W)
            out = F.conv2d(places, self.weight[..., 0], *args)
            return out.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)
        if self._calls_onednn(x):
            args = (self.padding, self.stride, self.dilation, self.groups)
            return torch.ops.aten.mkldnn_convolution(x, self.weight, self.bias, *args)
        return super().forward(x)

    def _calls_onednn(self, x: torch.Tensor) -> bool:
        """Whether PyTorch's operation for oneDNN is called: in plain inference; autocast and traces do not know it."""
        is_plain = x.dtype == self.weight.dtype == torch.float32 and not torch.is_grad_enabled()
        is_seen = _is_traced() or torch.is_autocast_enabled("cpu")
        return is_plain and not is_seen and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Clips or pictures with the channels of a pixel side by side in memory; shape and values stay."""
    return x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)


def weights_channels_last(model: nn.Module) -> nn.Module:
    """Put the weights of all convolutions, in place, into the layout that ``channels_last`` gives clips."""
    for parameter in model.parameters():
        if parameter.ndim in (4, 5):
            parameter.data = channels_last(parameter.data)
    return model
