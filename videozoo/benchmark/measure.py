"""Measuring: steps of inference and training, their time in turns with others', and their peak memory.

Nothing here knows where a network came from, so that one's own and other libraries' are measured alike.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data import resolve_data_config
from ..utils import M_MMAP_THRESHOLD, set_malloc

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Step = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of each call, in the order of measuring."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median; 0.0 for a single call."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / self.median


# Steps ---------------------------------------------------------------------------------------------------------------


def inference_step(model: Callable, inputs: Sequence[Any], *, amp_dtype: str = "none") -> Step:
    """A call of ``model`` on ``inputs`` without gradients, under autocast unless ``amp_dtype`` is "none"."""
    device = _device_of(inputs)

    def step() -> Any:
        with torch.inference_mode(), _autocast(device, amp_dtype):
            return model(*inputs)

    return step


def training_step(
    model: nn.Module,
    inputs: Sequence[Any],
    *,
    amp_dtype: str = "none",
    forward: Callable | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Step:
    """Forward, loss, backward and a step of SGD with momentum, which changes next to nothing; a call gives the loss.

    The loss is cross entropy for logits ``(N, classes)`` of a classifier, with classes drawn once, else the mean of
    the squared outputs. ``forward`` is called in place of ``model``, whose parameters learn. fp16 goes without scaling
    of the loss.
    """
    device = _device_of(inputs)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    targets: dict[tuple[int, ...], torch.Tensor] = {}

    def step() -> torch.Tensor:
        with _autocast(device, amp_dtype):
            loss = _loss((forward or model)(*inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _loss(output: Any, targets: dict[tuple[int, ...], torch.Tensor]) -> torch.Tensor:
    tensors = _tensors(output)
    logits = tensors[0]
    if len(tensors) > 1 or logits.ndim != 2:
        return sum(tensor.float().square().mean() for tensor in tensors)
    if logits.shape not in targets:
        drawn = torch.randint(logits.shape[1], logits.shape[:1], generator=torch.Generator().manual_seed(0))
        targets[logits.shape] = drawn.to(logits.device)
    return F.cross_entropy(logits.float(), targets[logits.shape])


def _tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of an output, however they are held."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in _tensors(part)]


def _device_of(inputs: Sequence[Any]) -> torch.device:
    return _tensors(inputs)[0].device


def _autocast(device: torch.device, amp_dtype: str) -> Any:
    return nullcontext() if amp_dtype == "none" else torch.autocast(device.type, DTYPES[amp_dtype])


def relative_difference(output: Any, reference: Any) -> float:
    """Largest difference of two outputs, relative to the reference's largest value; the worst of all tensors.

    A ValueError says so where they differ in number or shape.
    """
    pairs = [_tensors(output), _tensors(reference)]
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in pairs]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs have the shapes {shapes[0]} and {shapes[1]}, so they cannot be compared.")
    worst = 0.0
    for one, other in zip(*pairs, strict=True):
        one, other = one.double(), other.double()
        worst = max(worst, ((one - other).abs().max() / other.abs().max().clamp_min(1e-30)).item())
    return worst


# Inputs --------------------------------------------------------------------------------------------------------------


def example_inputs(
    model: nn.Module,
    batch: int = 1,
    *,
    frames: int | None = None,
    size: int | None = None,
    training: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Normal random input of ``model`` as its entry's test has it, one view for each of ``batch``; always the same.

    Clips ``(N, C, T, H, W)``, audio ``(N, 1, T, F)``, features ``(N, C, T)``; detectors get a list of boxes, one a
    clip, as well. ``training`` takes frames and size of the training; ``frames`` and ``size`` override both.
    """
    cfg = model.pretrained_cfg
    config = resolve_data_config(model=model, use_test_size=not training)
    if model.input_dims == 5 and getattr(model, "task", "") == "localization":
        raise ValueError(
            f"{model.title} scores proposals of a whole video, so it has no input of one size to measure: "
            "measure tsn_r50_f8, which is its trunk."
        )
    if (frames or size) and model.input_dims != 5:
        raise ValueError(f"{model.title} takes no clips, so leave out frames and size.")
    if config["modality"] == "audio":
        from ..data.audio import MEL_BANDS, ROWS

        shape: tuple[int, ...] = (model.in_chans, ROWS, MEL_BANDS)
    elif model.input_dims == 3:
        shape = (model.in_chans, model.num_frames or cfg["sampling"]["frames"])
    else:
        own = config["segments"] * (1 if config["stack"] else config["num_frames"])
        shape = (model.in_chans, frames or own, size or config["size"], size or config["size"])
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if getattr(model, "task", "") != "detection":
        return (x,)
    side = shape[-1]
    box = torch.tensor([[side / 4, side / 8, side * 3 / 4, side * 7 / 8]], device=x.device)
    return x, [box.clone() for _ in range(batch)]


def multiply_adds(model: Callable, inputs: Sequence[Any]) -> int:
    """Multiplications with addition of one call, which papers on video call FLOPs: convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


# Time ----------------------------------------------------------------------------------------------------------------


def interleave(
    steps: Mapping[str, Step], device: str | torch.device = "cpu", *, rounds: int = 5, warm: int = 1
) -> dict[str, Timing]:
    """Time of each step, one call a round, so that all of them share the machine's better and worse moments.

    The order turns and reverses from round to round. On CUDA the clock is that of the device's own events.
    """
    names = list(steps)
    for name in names * warm:
        steps[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        order = names[shift:] + names[:shift]
        for name in order if turn % 2 else order[::-1]:
            seconds[name].append(_seconds(steps[name], torch.device(device)))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _seconds(step: Step, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


# Memory --------------------------------------------------------------------------------------------------------------


def peak_memory(make: Callable[[], Step], device: str | torch.device = "cpu", *, calls: int = 2) -> int:
    """Bytes that a step needs at most, with all that ``make`` builds for it: weights, input, gradients, buffers.

    On a CPU it is the growth of the process, so a figure is only sound in a process that has done nothing else (see
    :func:`in_fresh_process`), and it holds what torch sets up for its first convolutions, tens of MiB; on CUDA it is
    what torch has allocated. What building alone needed for a moment does not count where the system can forget it
    (Linux). From then on the process returns freed blocks of more than 1 MiB to the system at once, if its C library
    is glibc, which else keeps tens of MiB of them or none, by the order in which blocks of different sizes come and go.
    """
    device = torch.device(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        step = make()
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(calls):
            step()
        return torch.cuda.max_memory_allocated(device) - before
    set_malloc({M_MMAP_THRESHOLD: 2**20})
    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # the first optimiser loads 150 MiB of torch's compiler
    _forget_peak()
    before = _peak_resident()
    step = make()
    _forget_peak()
    for _ in range(calls):
        step()
    return _peak_resident() - before


def _peak_resident() -> int:
    """The most bytes of main memory that this process has held since its peak was forgotten, or since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def in_fresh_process(function: Callable, *args: Any) -> Any:
    """``function(*args)`` of a new process, which has done nothing else; both must be picklable.

    A process that is killed, most often for want of memory, is a ValueError.
    """
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *args).result()
    except BrokenProcessPool as error:
        raise ValueError(
            "the process that measured memory was ended from outside, most often because memory ran out: "
            "take a smaller batch."
        ) from error


@contextmanager
def memory_told(batch: int, device: str) -> Iterator[None]:
    """An error of want of memory on a GPU as a ValueError that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"a batch of {batch} does not fit into the memory of {device}: take a smaller one.") from error
