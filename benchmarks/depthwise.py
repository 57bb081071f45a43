"""Depthwise 3-D convolutions of X3D-M and CSN: PyTorch's own in both layouts against `DepthwiseConv3d`.

    python benchmarks/depthwise.py --batch-size 2
    python benchmarks/depthwise.py 108 216 --dtype bf16
    python benchmarks/depthwise.py --device cuda --batch-size 8

All forms run in turns in one process. Printed are median milliseconds, how many times faster ours is than the better of
PyTorch's, and the largest error of output and gradients against float64, relative to the largest value. On CUDA each
time is the mean of 20 calls in a row, ours are the Triton kernels whatever the size, and the goal is printed beside: at
least 3 times the native operator, forward and backward, on the large shapes. Exits with 1 if an error of ours is larger
than 2e-5 in float32 or 2e-2 in half precision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from videozoo.benchmark import Timing, interleave, relative_difference
from videozoo.benchmark.measure import DTYPES
from videozoo.layers import DepthwiseConv3d
from videozoo.layers.depthwise import TRITON_MIN_ELEMENTS
from videozoo.machine import describe_machine, machine_facts

SHAPES = {  # channels, frames, side of the input; kernel; stride
    "X3D-M stem": ((24, 16, 112), (5, 1, 1), (1, 1, 1)),
    "X3D-M first": ((54, 16, 112), (3, 3, 3), (1, 2, 2)),
    "X3D-M 1": ((54, 16, 56), (3, 3, 3), (1, 1, 1)),
    "X3D-M 2 first": ((108, 16, 56), (3, 3, 3), (1, 2, 2)),
    "X3D-M 2": ((108, 16, 28), (3, 3, 3), (1, 1, 1)),
    "X3D-M 3": ((216, 16, 14), (3, 3, 3), (1, 1, 1)),
    "X3D-M 4": ((432, 16, 7), (3, 3, 3), (1, 1, 1)),
    "CSN 1": ((64, 32, 56), (3, 3, 3), (1, 1, 1)),
    "CSN 2 first": ((128, 32, 56), (3, 3, 3), (2, 2, 2)),
    "CSN 2": ((128, 16, 28), (3, 3, 3), (1, 1, 1)),
    "CSN 3": ((256, 8, 14), (3, 3, 3), (1, 1, 1)),
}
LAST = torch.channels_last_3d
FORMS = {  # layout, backend
    "native": (torch.contiguous_format, "native"),
    "native, channels-last": (LAST, "native"),
    "ours": (LAST, "own"),
}
CUDA_CALLS = 20
CUDA_GOAL = 3.0

Tensors = tuple[torch.Tensor, ...]


def passes(conv: DepthwiseConv3d, x: torch.Tensor, grad: torch.Tensor) -> Tensors:
    """Output, gradient of the input, gradient of the weight."""
    y = conv(x)
    return y.detach(), *torch.autograd.grad(y, (x, conv.weight), grad)


def in_double(conv: DepthwiseConv3d, x: torch.Tensor, grad: torch.Tensor) -> Tensors:
    x, weight = x.detach().double().requires_grad_(), conv.weight.detach().double().requires_grad_()
    y = F.conv3d(x, weight, None, conv.stride, conv.padding, 1, conv.groups)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad.double())


def repeated(step: Callable[[], Tensors], calls: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(calls):
            step()

    return run


def measure(name: str, args: argparse.Namespace) -> tuple[dict[str, dict[str, Timing]], dict[str, float], int]:
    """Times by pass and form, errors by form, and elements of the input."""
    (channels, frames, side), kernel, stride = SHAPES[name]
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, channels, frames, side, side)
    runs, forwards, errors, expected = {}, {}, {}, None
    for form, (layout, backend) in FORMS.items():
        conv = DepthwiseConv3d(channels, kernel, stride, tuple(k // 2 for k in kernel), backend=backend)
        torch.nn.init.trunc_normal_(conv.weight, generator=torch.Generator().manual_seed(0))
        conv = conv.to(args.device, DTYPES[args.dtype])
        clip = x.to(args.device, DTYPES[args.dtype]).contiguous(memory_format=layout).requires_grad_()
        shape = conv(clip).shape
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        grad = grad.to(args.device, DTYPES[args.dtype]).contiguous(memory_format=layout)
        expected = expected or in_double(conv, clip, grad)
        errors[form] = relative_difference(passes(conv, clip, grad), expected)
        calls = CUDA_CALLS if clip.is_cuda else 1
        forwards[form] = repeated(lambda conv=conv, clip=clip: (conv(clip),), calls)
        runs[form] = repeated(lambda conv=conv, clip=clip, grad=grad: passes(conv, clip, grad), calls)
    timings = {
        "forward": interleave(forwards, args.device, rounds=args.rounds),
        "forward + backward": interleave(runs, args.device, rounds=args.rounds),
    }
    return timings, errors, x.numel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("channels", type=int, nargs="*", help="layers with these numbers of channels only")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_cuda = args.device.startswith("cuda")
    bound, worst, calls = 2e-5 if args.dtype == "float32" else 2e-2, 0.0, CUDA_CALLS if on_cuda else 1
    print(f"batch {args.batch_size}, {args.dtype}, {describe_machine(machine_facts(args.device))}")
    print(f"{'':35s}" + "".join(f"{form:>23s}" for form in FORMS) + f"{'gain':>8s}")
    for name in SHAPES:
        if args.channels and SHAPES[name][0][0] not in args.channels:
            continue
        timings, errors, elements = measure(name, args)
        for label, timing in timings.items():
            own = timing.pop("ours").median
            gain = min(other.median for other in timing.values()) / own
            milliseconds = [*(other.median for other in timing.values()), own]
            line = f"{name:15s} {label:19s}" + "".join(f"{t * 1000 / calls:20.2f} ms" for t in milliseconds)
            goal = f"  goal {CUDA_GOAL:g}" if on_cuda and "back" in label and elements >= TRITON_MIN_ELEMENTS else ""
            print(f"{line}{gain:7.1f}x{goal}")
        print(f"{name:15s} {'error':19s}" + "".join(f"{error:23.0e}" for error in errors.values()), flush=True)
        worst = max(worst, errors["ours"])
    return int(worst > bound)


if __name__ == "__main__":
    sys.exit(main())
