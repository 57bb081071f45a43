"""Measures which networks export and compile, and writes the table of docs/pages/export.md.

    python docs/export_matrix.py                # the networks that are missing in the table, one row at a time
    python docs/export_matrix.py tsn_r50_f3     # these anew

Each row is written as soon as it is measured, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import torch
from filelock import FileLock
from torch.nn.modules.batchnorm import _BatchNorm

import videozoo
from videozoo import names, registry
from videozoo.checkpoint import atomic_path
from videozoo.export import SUFFIXES, example_inputs, export_model, named_outputs
from videozoo.layers import ConvNorm, NonLocal3d
from videozoo.publishing.golden import deviation

PAGE = Path(__file__).parent / "pages" / "export.md"
REGION = re.compile(r"(<!-- matrix -->\n)(.*?)(<!-- end of matrix -->)", re.DOTALL)
HEAD = "| network | input | `torch_export` | `onnx` | `torch.compile` | bf16 | fp16 |\n|---|---|---|---|---|---|---|\n"
SIDE, LARGER = 64, 128  # pixels, of most networks and of detectors
FRAMES = 8  # of networks that take any number
PLACES = 8  # that the last features need, for batch norms to have statistics; the side is larger otherwise


def networks() -> list[str]:
    """One architecture for each kind of network: without depth variants and samplings."""
    kinds: dict[tuple[str, str], str] = {}
    for name in sorted(filter(registry.is_our_own, registry.architectures()), key=names.natural_key):
        depth = re.sub(r"r(18|34)", "basic", re.sub(r"r(50|101|152)", "bottleneck", name))
        kinds.setdefault((registry.module_of(name), re.sub(r"_(f\d+|\d+x\d+)$", "", depth)), name)
    return list(kinds.values())


def small_shape(model: torch.nn.Module) -> tuple[int, ...] | None:
    """Shape of a small input without the batch axis; None: that of the test, which is small already."""
    if getattr(model, "input_dims", 5) != 5:
        return None
    frames = model.num_frames or max(FRAMES, model.min_frames)
    reduction = model.feature_info.reduction()[-1]
    by_time, by_space = reduction[0] if isinstance(reduction[0], tuple) else reduction  # of two pathways the slow one
    is_coarse = frames // by_time * (SIDE // by_space) ** 2 < PLACES
    side = model.fixed_size or (LARGER if is_coarse or getattr(model, "task", "") == "detection" else SIDE)
    return (model.in_chans, frames, side, side)


def settle(model: torch.nn.Module, call: Callable[[], object]) -> None:
    """Make a fresh network's values those of a trained one in size: rounding then grows as it does there.

    Residual branches count less than their shortcuts, and batch norms get the statistics of one input; not those of
    non-local blocks, which start without effect and whose output varies too little to be normalised.
    """
    kept = {id(module.norm) for module in model.modules() if isinstance(module, NonLocal3d)}
    for module in model.modules():
        _, last = (getattr(module, "conv_norms", ()) or ((None, None),))[-1]
        if last and not isinstance(module, ConvNorm) and isinstance(norm := module.get_submodule(last), _BatchNorm):
            torch.nn.init.constant_(norm.weight, 1.0 if id(norm) in kept else 0.2)
        if isinstance(module, _BatchNorm) and id(module) not in kept:
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        call()
    model.eval()


def autocast_deviation(call: Callable[[], dict[str, torch.Tensor]], dtype: torch.dtype) -> float:
    """Largest deviation of the outputs in half precision."""
    expected = call()
    with torch.autocast("cpu", dtype):
        found = call()
    return max(deviation(found[name].float(), expected[name]) for name in expected)


def compile_deviation(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Largest deviation of the compiled model, whose graph must be one."""
    arguments = list(inputs.values())
    if "boxes" in inputs:
        rows = arguments[1]
        arguments[1] = [rows[rows[:, 0] == clip, 1:] for clip in range(len(arguments[0]))]
    expected = named_outputs(model, inputs).values()
    try:
        with torch.no_grad():
            found = torch.compile(model, fullgraph=True, backend="aot_eager")(*arguments)
    finally:
        torch._dynamo.reset()
    found = (found,) if isinstance(found, torch.Tensor) else tuple(found)
    return max(deviation(a, b) for a, b in zip(found, expected, strict=True))


def cell(measure: Callable[[], float]) -> str:
    """A deviation, or why there is none."""
    try:
        return f"{measure():.0e}"
    except Exception as error:  # noqa: BLE001, whatever it is belongs into the table
        reason = " ".join((str(error) or type(error).__name__).split())
        return f"fails: {shorten(reason, 160)}".replace("|", "/")


def measure_row(name: str) -> str:
    """The line of the table for one network."""
    torch.manual_seed(0)
    model = videozoo.create_model(name).eval()
    shape = small_shape(model)
    inputs = example_inputs(model, 2, shape)
    settle(model, lambda: named_outputs(model, inputs))
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("torch_export", "onnx"):
            path = Path(folder, f"model{SUFFIXES[kind]}")
            cells.append(cell(lambda path=path, kind=kind: export_model(model, path, kind, shape=shape).deviation))
    cells.append(cell(lambda: compile_deviation(model, inputs)))
    for dtype in (torch.bfloat16, torch.float16):
        cells.append(cell(lambda dtype=dtype: autocast_deviation(lambda: named_outputs(model, inputs), dtype)))
    size = " x ".join(map(str, next(iter(inputs.values())).shape[1:]))
    return f"| {' | '.join([f'`{name}`', size, *cells])} |"


def read_rows() -> dict[str, str]:
    """Lines of the table by network."""
    lines = REGION.search(PAGE.read_text(encoding="utf-8"))[2].splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def write_row(name: str, row: str) -> None:
    """Put one line into the table, which is in the order of ``networks``."""
    with FileLock(f"{tempfile.gettempdir()}/videozoo-export-matrix.lock"):
        rows = {**read_rows(), name: row}
        table = HEAD + "".join(f"{rows[key]}\n" for key in networks() if key in rows)
        text = PAGE.read_text(encoding="utf-8")
        with atomic_path(PAGE) as temporary:
            temporary.write_text(REGION.sub(lambda m: m[1] + table + m[3], text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="networks to measure anew (default: those that are missing)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in args.networks or networks():
        if not args.networks and name in read_rows():
            continue
        row = measure_row(name)
        write_row(name, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
