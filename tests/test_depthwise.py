"""Depthwise 3-D convolution: the same numbers as PyTorch's, in every form that training uses it."""

import contextlib
import copy
import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import videozoo
from videozoo.layers import DepthwiseConv3d, depthwise

CHANNELS = 6
OURS = "GeneratedBackwardFor_videozoo_depthwise_conv3d"
LAST, DENSE = torch.channels_last_3d, torch.contiguous_format
GEOMETRIES = [  # kernel, stride, padding
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (0, 0, 0)),
    ((1, 3, 3), (2, 3, 1), (0, 1, 2)),
    ((1, 1, 1), (2, 2, 2), (0, 0, 0)),  # places that nothing depends on
    ((2, 4, 3), (1, 2, 3), (1, 0, 1)),
]


def is_ours(y):
    return type(y.grad_fn).__name__.startswith(OURS)


def clip(*size, dtype=torch.float32, layout=DENSE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator).to(dtype).contiguous(memory_format=layout).requires_grad_()


def layer(kernel=3, stride=1, padding=1, channels=CHANNELS, **kwargs):
    torch.manual_seed(0)
    return DepthwiseConv3d(channels, kernel, stride, padding, **kwargs)


def results(conv, x, dtype=None):
    """Output and gradients for one gradient of the output; those of ``F.conv3d`` where a dtype is given."""
    x, weight = (t.detach().to(dtype or t.dtype).requires_grad_() for t in (x, conv.weight))
    if dtype:
        y = F.conv3d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)
    else:
        weight, y = conv.weight, conv(x)
        assert is_ours(y)
    grad = clip(*y.shape, dtype=y.dtype if dtype is None else torch.float32, seed=1)
    return y, *torch.autograd.grad(y, (x, weight), grad.to(y.dtype))


def assert_close(actual, expected, tolerance):
    for name, a, b in zip(("output", "gradient of the input", "gradient of the weight"), actual, expected, strict=True):
        assert a.shape == b.shape, name
        error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30) if b.numel() else 0
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kernel, stride, padding", GEOMETRIES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_equal_those_in_double_precision(kernel, stride, padding, dtype, tolerance):
    conv = layer(kernel, stride, padding).to(dtype)
    for (batch, size), layout in itertools.product(((1, (4, 7, 6)), (3, (5, 5, 9)), (2, (3, 4, 4))), (DENSE, LAST)):
        x = clip(batch, CHANNELS, *size, dtype=dtype, layout=layout)
        ours = results(conv, x)
        assert all(t.dtype == dtype for t in ours)
        assert_close(ours, results(conv, x, torch.float64), tolerance)


def test_gradients_are_those_of_the_output():
    conv = DepthwiseConv3d(2, (3, 3, 3), (1, 2, 2), (1, 1, 1), bias=True).double()
    x = clip(2, 2, 3, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, *parameters: conv(x), (x, *conv.parameters()))


def test_inputs_that_are_not_dense_and_gradients_that_are_expanded():
    conv = layer()
    whole = torch.randn(2, 5, 9, 8, 2 * CHANNELS)
    x = whole.permute(0, 4, 1, 2, 3)[:, ::2, :, 1:, ::2]
    assert_close(results(conv, x), results(conv, x, torch.float64), 1e-6)
    gradients = []
    for backend in ("own", "native"):
        conv.backend = backend
        gradients.append(torch.autograd.grad(conv(x).sum(), conv.weight)[0])  # the gradient of a sum has strides of 0
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_one_frame_and_no_clip():
    conv = layer((5, 3, 3), padding=(2, 1, 1))
    x = clip(2, CHANNELS, 1, 5, 5)
    assert_close(results(conv, x), results(conv, x, torch.float64), 1e-6)
    empty = results(conv, clip(0, CHANNELS, 4, 5, 5))
    assert empty[0].shape == (0, CHANNELS, 4, 5, 5) and empty[1].shape == (0, CHANNELS, 4, 5, 5)
    assert torch.equal(empty[2], torch.zeros_like(conv.weight))


def test_gradients_of_what_is_frozen_are_left_out():
    conv, x = layer(), clip(1, CHANNELS, 3, 5, 5)
    conv.weight.requires_grad_(False)
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None
    conv.weight.requires_grad_(True)
    y = conv(x.detach())
    y.sum().backward()
    assert is_ours(y) and conv.weight.grad is not None


def test_channels_last_is_what_follows_on_a_cpu():
    assert layer()(clip(2, CHANNELS, 3, 5, 5)).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("case", ["eval", "no_grad", "inference_mode", "nothing to learn", "one clip", "native"])
def test_plain_convolution_otherwise(case):
    conv, x = layer(bias=True, backend="native" if case == "native" else None), clip(1, CHANNELS, 3, 5, 5)
    conv.train(case != "eval")
    conv.requires_grad_(case != "nothing to learn")
    x = x.detach() if case == "nothing to learn" else x[0] if case == "one clip" else x
    without = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(case, contextlib.nullcontext)
    with without(), torch.profiler.profile() as profile:
        y = conv(x)
    names = [event.key for event in profile.key_averages()]
    assert "aten::conv3d" in names and not any("videozoo" in name for name in names)
    assert torch.equal(y, F.conv3d(x, conv.weight, conv.bias, 1, 1, 1, CHANNELS))


def test_bias_and_state_dict_are_those_of_a_plain_convolution():
    plain = nn.Conv3d(CHANNELS, CHANNELS, (3, 3, 3), (1, 2, 2), 1, groups=CHANNELS)
    conv = layer((3, 3, 3), (1, 2, 2), bias=True)
    conv.load_state_dict(plain.state_dict())
    assert list(conv.state_dict()) == ["weight", "bias"]
    x = clip(2, CHANNELS, 3, 6, 7)
    for module in (plain, conv):
        module(x).square().sum().backward()
    assert torch.allclose(conv.bias.grad, plain.bias.grad, rtol=1e-5)
    assert torch.allclose(conv.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-5)


def test_a_copy_learns_on_its_own():
    conv = layer(backend="own")
    twin = copy.deepcopy(conv)
    y = twin(clip(1, CHANNELS, 3, 5, 5))
    y.sum().backward()
    assert is_ours(y) and twin.backend == "own" and conv.weight.grad is None and twin.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_as_for_any_convolution(dtype):
    conv, x = layer().to(dtype), clip(2, CHANNELS, 3, 6, 6, dtype=dtype, layout=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.conv3d(x, conv.weight, None, 1, 1, 1, CHANNELS)
        y, of_x, of_weight = results(conv, x)
        assert y.dtype == plain.dtype and of_x.dtype == of_weight.dtype == dtype
    assert_close((y, of_x, of_weight), results(conv, x, torch.float64), 1e-2 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(backend, autocast):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = layer(stride=(1, 2, 2)), nn.BatchNorm3d(CHANNELS)

        def forward(self, x):
            return self.norm(self.conv(x)).relu()

    if backend == "inductor" and autocast:
        backend = "eager"  # one compilation to machine code is slow enough
    small, x = Small(), clip(2, CHANNELS, 3, 6, 7)
    outputs = []
    for form in (small, torch.compile(small, backend=backend, fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = form(x)
        outputs.append((y, *torch.autograd.grad(y.float().square().sum(), (x, small.conv.weight))))
    torch._dynamo.reset()
    assert_close(outputs[1], outputs[0], 2e-2 if autocast else 1e-5)


def test_the_operators_keep_their_promises_to_the_compiler():
    x, weight = clip(2, CHANNELS, 3, 6, 7), layer().weight
    ops = torch.ops.videozoo
    torch.library.opcheck(ops.depthwise_conv3d.default, (x, weight, [1, 2, 2], [1, 1, 1]))
    grad = clip(2, CHANNELS, 3, 3, 4).detach()
    torch.library.opcheck(
        ops.depthwise_conv3d_input_gradient.default, (grad, weight.detach(), [3, 6, 7], [1, 2, 2], [1, 1, 1])
    )
    torch.library.opcheck(
        ops.depthwise_conv3d_weight_gradient.default, (grad, x.detach(), [3, 3, 3], [1, 2, 2], [1, 1, 1])
    )


def test_export_for_inference_holds_no_operator_of_ours():
    model = nn.Sequential(layer(), nn.BatchNorm3d(CHANNELS))
    x = clip(2, CHANNELS, 3, 6, 7).detach()
    for training in (False, True):
        model.train(training)
        program = torch.export.export(model, (x,))
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert any("videozoo" in target for target in targets) == training
        assert any("conv3d" in target for target in targets)
        assert torch.allclose(program.module()(x), model(x), atol=1e-6)


def test_second_derivatives_are_refused_with_a_way_out():
    conv, x = layer(), clip(1, CHANNELS, 3, 5, 5)

    def penalty():
        (gradient,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    with pytest.raises(RuntimeError, match="evaluation mode.*VIDEOZOO_DEPTHWISE=native"):
        penalty().backward()
    conv.eval()
    penalty().backward()
    assert torch.isfinite(conv.weight.grad).all()


def test_backend_by_argument_and_environment(monkeypatch):
    assert layer().backend == "auto"
    monkeypatch.setenv("VIDEOZOO_DEPTHWISE", "native")
    assert layer().backend == "native" and layer(backend="own").backend == "own"
    monkeypatch.setenv("VIDEOZOO_DEPTHWISE", "cudnn")
    with pytest.raises(ValueError, match="'cudnn'.*VIDEOZOO_DEPTHWISE.*auto, native, own"):
        layer()


class OnCuda:
    """What the choice looks at, without a card."""

    def __init__(self, *shape, dtype=torch.float32):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, torch.device("cuda")
        self.ndim, self.requires_grad = len(shape), True

    def numel(self):
        return self.shape.numel()


def test_choice_on_cuda(monkeypatch):
    monkeypatch.setattr(depthwise, "_triton_runs", lambda: True)
    large, small = (8, 54, 16, 56, 56), (1, 432, 16, 7, 7)
    assert layer(channels=54)._is_ours(OnCuda(*large)) and not layer(channels=54)._is_ours(OnCuda(*small))
    assert layer(channels=432, backend="own")._is_ours(OnCuda(*small))
    assert not layer(channels=54, backend="native")._is_ours(OnCuda(*large))
    assert layer((5, 1, 1), padding=(2, 0, 0))._is_ours(OnCuda(*large))
    assert not layer((1, 3, 3))._is_ours(OnCuda(*large)) and not layer(stride=3)._is_ours(OnCuda(*large))
    assert not layer()._is_ours(OnCuda(*large, dtype=torch.float64))
    monkeypatch.setattr(depthwise, "_triton_runs", lambda: False)
    assert not layer(channels=54, backend="own")._is_ours(OnCuda(*large))


@pytest.mark.parametrize("architecture", ["x3d_s_13x6", "ircsn_r50_32x2", "ipcsn_r152_32x2"])
def test_networks_use_it_everywhere(architecture):
    with torch.device("meta"):
        model = videozoo.create_model(architecture)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv3d) and m.groups == m.in_channels > 1]
    assert convs and all(type(conv) is DepthwiseConv3d for conv in convs)


KERNELS = """
import torch
import torch.nn.functional as F
from test_depthwise import KERNEL_CASES, clip
from videozoo.layers.depthwise_triton import convolve, weight_gradient

def error(actual, expected, dtype, layout):
    assert actual.shape == expected.shape and actual.dtype == dtype and actual.is_contiguous(memory_format=layout)
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()

for kernel, stride, padding, layout, dtype, size in KERNEL_CASES:
    form = {"dtype": getattr(torch, dtype), "layout": getattr(torch, layout)}
    x, weight = clip(*size, **form).detach(), clip(size[1], 1, *kernel, dtype=form["dtype"], seed=1).detach()
    wide = [t.double().requires_grad_() for t in (x, weight)]
    y = F.conv3d(*wide, None, stride, padding, 1, size[1])
    grad = clip(*y.shape, seed=2, **form).detach()
    of_x, of_weight = torch.autograd.grad(y, wide, grad.double())
    ours = convolve(x, weight, y.shape[2:], stride, padding)
    turned = convolve(grad, weight, x.shape[2:], stride, padding, transposed=True)
    print(error(ours, y, **form), error(turned, of_x, **form),
          error(weight_gradient(grad, x, kernel, stride, padding), of_weight, form["dtype"], torch.contiguous_format))
"""
KERNEL_CASES = [  # kernel, stride, padding, layout, dtype, size: odd; more than a tile of places, channels and frames
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), "channels_last_3d", "float32", (2, 5, 3, 5, 9)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), "contiguous_format", "float32", (1, 2, 3, 5, 4)),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1), "channels_last_3d", "float32", (1, 34, 2, 6, 7)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), "channels_last_3d", "bfloat16", (1, 3, 5, 5, 4)),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1), "contiguous_format", "float16", (1, 2, 2, 5, 4)),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0), "channels_last_3d", "float32", (1, 3, 19, 2, 3)),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0), "channels_last_3d", "bfloat16", (1, 3, 3, 2, 3)),
    ((3, 1, 1), (2, 1, 1), (1, 0, 0), "channels_last_3d", "float16", (1, 3, 6, 3, 2)),
]


def test_triton_kernels_equal_double_precision_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-c", KERNELS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for case, line in zip(KERNEL_CASES, done.stdout.splitlines(), strict=True):
        assert max(map(float, line.split())) < {"float32": 1e-6, "bfloat16": 1e-2, "float16": 2e-3}[case[4]], case
