"""BMN's boundary matching, sparse against dense: the same numbers, and how long each takes.

    python benchmarks/bmn.py --batch 2 --repeats 7
    python benchmarks/bmn.py --device cuda --batch 8 --backward

Dense is the usual form: one multiplication with the sampling matrix (T x 32*T*T), then a 3-D convolution over the 32
sampled points. Both run in turn in one process; printed are medians, and the largest difference of their outputs (and
gradients), relative to the largest value. Exits with 1 if outputs differ by more than 1e-4, gradients by 1e-3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from videozoo.models.bmn import BMN, SegmentSampling

FORMS = ("sparse", "dense")


class DenseSampling(nn.Module):
    """`SegmentSampling` with the matrix in full, from the same table and with the same weights."""

    def __init__(self, sparse: SegmentSampling):
        super().__init__()
        self.positions, self.points = sparse.positions, sparse.points
        self.weight, self.bias = sparse.weight, sparse.bias
        ends = torch.cat((sparse.offset[1:], torch.tensor([len(sparse.index)], device=sparse.offset.device)))
        cells = torch.arange(self.positions**2, device=ends.device).repeat_interleave(ends - sparse.offset)
        position, point = sparse.index // self.points, sparse.index % self.points
        matrix = sparse.share.new_zeros(self.positions, self.points, self.positions**2)
        matrix[position, point, cells] = sparse.share
        self.register_buffer("matrix", matrix.flatten(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples = torch.matmul(x, self.matrix)  # (N, C, 32*T*T)
        samples = samples.view(*x.shape[:2], self.points, self.positions, self.positions)
        return F.conv3d(samples, self.weight, self.bias).squeeze(2)


def timed(run: Callable[[], list[torch.Tensor]], device: torch.device) -> tuple[float, list[torch.Tensor]]:
    """Seconds of one call, with all work of the device done, and its result."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - start, result


def step(module: nn.Module, x: torch.Tensor, backward: bool) -> list[torch.Tensor]:
    """Output of a forward pass, with `backward` also the gradients of input and weights."""
    if not backward:
        with torch.inference_mode():
            output = module(x)
        return list(output) if isinstance(output, tuple) else [output]
    x = x.detach().requires_grad_()
    output = module(x)
    loss = sum(t.square().mean() for t in (output if isinstance(output, tuple) else (output,)))
    inputs = [x, *module.parameters()]
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def compare(
    pair: dict[str, nn.Module], x: torch.Tensor, repeats: int, backward: bool
) -> tuple[dict[str, float], float]:
    """Median seconds of each form, and the largest relative difference of their results."""
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    results = {}
    for turn in range(repeats + 1):
        for form in FORMS if turn % 2 else FORMS[::-1]:
            took, results[form] = timed(lambda form=form: step(pair[form], x, backward), x.device)
            if turn:  # the first is for warming up
                seconds[form].append(took)
    scale = [max(t.abs().max().item(), 1e-12) for t in results["dense"]]
    pairs = zip(results["sparse"], results["dense"], scale, strict=True)
    return {k: statistics.median(v) for k, v in seconds.items()}, max(
        (a - b).abs().max().item() / s for a, b, s in pairs
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backward", action="store_true", help="time forward and backward pass together")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    device = torch.device(args.device)
    network = BMN().to(device).eval()
    whole = BMN().to(device).eval()
    whole.load_state_dict(network.state_dict())
    whole.sampling = DenseSampling(whole.sampling)
    rows = {
        "sampling and convolution": ({"sparse": network.sampling, "dense": whole.sampling}, 256),
        "whole network": ({"sparse": network, "dense": whole}, 400),
    }
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    passes = "forward and backward" if args.backward else "forward"
    print(f"batch {args.batch}, {passes}, torch {torch.__version__}, {where}")
    worst = 0.0
    for name, (pair, width) in rows.items():
        x = torch.randn(args.batch, width, 100, device=device)
        medians, difference = compare(pair, x, args.repeats, args.backward)
        worst = max(worst, difference)
        print(f"{name:26s} sparse {medians['sparse'] * 1e3:9.1f} ms   dense {medians['dense'] * 1e3:9.1f} ms   "
              f"{medians['dense'] / medians['sparse']:6.1f} x   largest difference {difference:.1e}")  # fmt: skip
    return int(worst > (1e-3 if args.backward else 1e-4))


if __name__ == "__main__":
    sys.exit(main())
