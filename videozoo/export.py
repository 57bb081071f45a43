"""Models as files that other programs run: ONNX, ``torch.export`` archives and packages of AOTInductor.

What is written takes plain tensors, any number of clips at a time, and gives the model's own outputs: logits of a
recogniser, not probabilities. Each file is read back and compared with the model before it gets its name.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from . import __version__, catalog
from .checkpoint import atomic_path
from .data import resolve_model_data_config
from .models.detector import RoiHead, clip_boxes
from .models.ssn import SSN
from .publishing.golden import deviation, input_recipe, make_input

__all__ = ["Exported", "export_model"]

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "aoti": ".pt2"}
FACTS = "videozoo.json"  # name of the facts in an archive of torch.export
TOLERANCE = 1e-3  # largest difference over the largest value: other libraries add in another order
TRACED, CHECKED = 2, (1, 3)  # clips in a batch
EMBEDDING_BAG = torch.ops.aten.embedding_bag.padding_idx
CLIPS = {3: "features", 4: "spectrograms", 5: "clips"}  # what the first input is called, by its dimensions

Inputs = dict[str, torch.Tensor]


class Exported(NamedTuple):
    """What :func:`export_model` wrote."""

    path: Path
    facts: dict[str, Any]
    """What the file says of itself: names and shapes of its inputs and outputs, ``data_config``, ``labels``, ..."""
    deviation: float
    """Largest difference to the model's outputs over the largest of them, of batches of 1 and 3."""


def export_model(
    model: nn.Module, path: str | os.PathLike, format: str = "onnx", *, shape: Sequence[int] | None = None
) -> Exported:
    """Write ``model`` as a file that runs without videozoo, once its outputs agree with the model's.

    The number of clips is free, the other sides are those of ``shape``. A detector takes ``clips`` and ``boxes``
    ``(K, 5)``: number of the clip, x1, y1, x2, y2 in pixels. SSN takes one video of any length with any number of
    proposals. Named outputs come in the order of the facts that the file carries.

    Args:
        model: in eval mode and float32, neither optimised nor compiled.
        path: file to write, .onnx or .pt2.
        format: "onnx", "torch_export" (read by ``torch.export.load``), or "aoti": machine code for this processor,
            made by a C++ compiler (read by ``torch._inductor.aoti_load_package``).
        shape: of one input without the batch axis, (C, T, H, W); None: that of one view in the model's test.

    Raises:
        ValueError: a model or path that cannot be exported, or a file whose outputs differ, which is not kept.
        ImportError: ONNX is wanted and its packages are missing.
    """
    path = Path(path)
    _check(model, path, format)
    inputs = {count: example_inputs(model, count, shape) for count in (TRACED, *CHECKED)}
    program = trace(model, inputs[TRACED])
    expected = {count: named_outputs(model, inputs[count]) for count in CHECKED}
    facts = _facts(model, format, inputs[1], expected[1])
    write, read = _FORMATS[format]
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder, f"model{SUFFIXES[format]}")
        write(program, facts, written)
        run = read(written)
        with torch.no_grad():
            found = {count: run(inputs[count]) for count in CHECKED}
        worst = max(
            deviation(torch.as_tensor(output), reference)
            for count in CHECKED
            for output, reference in zip(found[count], expected[count].values(), strict=True)
        )
        if not worst <= TOLERANCE:  # NaN is none, either
            raise ValueError(
                f"{path} is not written: its outputs differ from the model's by {worst:.1e} of the largest value "
                f"(at most {TOLERANCE:.0e} is accepted); try another format"
            )
        os.replace(written, temporary)
    return Exported(path, facts, worst)


def _check(model: nn.Module, path: Path, format: str) -> None:
    """ValueError or ImportError unless the model can be written to ``path`` in this format."""
    name = getattr(model, "title", type(model).__name__)
    if format not in SUFFIXES:
        raise ValueError(f"format={format!r} is unknown: use one of {', '.join(SUFFIXES)}")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path} must end in {SUFFIXES[format]} for format={format!r}")
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise ValueError(f"{name} is compiled: export the model itself, as create_model made it")
    if hasattr(model, "optimization"):
        raise ValueError(f"{name} is optimised: call videozoo.deoptimize(model) first")
    if any(module.training for module in model.modules()):
        raise ValueError(f"{name} is in train mode: call model.eval() first")
    if wrong := {p.dtype for p in model.parameters()} - {torch.float32}:
        raise ValueError(f"{name} has weights of {wrong.pop()}: export it in float32, after model.float()")
    if format == "onnx":
        missing = [p for p in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(p) is None]
        if missing:
            raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'videozoo[export]'.")


# Inputs and outputs --------------------------------------------------------------------------------------------------


def example_inputs(model: nn.Module, count: int, shape: Sequence[int] | None = None) -> Inputs:
    """Tensors that an exported model takes, by name: ``count`` clips, with persons or proposals where it needs them.

    ``shape``: of one clip, without the batch axis; None: that of the model's test.
    """
    if getattr(model, "pretrained_cfg", None):
        first, *others = input_recipe(model, None if shape is None else (1, *shape))
    elif shape is not None:
        first, others = {"shape": (1, *shape), "seed": 0}, []
    else:
        raise ValueError(f"{type(model).__name__} does not say what its input is: give shape=(C, T, H, W)")
    batch = 1 if isinstance(model, SSN) else count
    clips = make_input({**first, "shape": [batch, *first["shape"][1:]]})
    inputs = {CLIPS.get(clips.ndim, "input"): clips}
    if isinstance(model, RoiHead):
        rows = make_input(others[0])[0]
        inputs["boxes"] = torch.cat([torch.cat((rows.new_full((len(rows), 1), i), rows), 1) for i in range(count)])
    elif isinstance(model, SSN):
        inputs |= {name: make_input(recipe)[:count] for name, recipe in zip(("ticks", "scales"), others, strict=True)}
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in inputs.items()}


class _Plain(nn.Module):
    """A model between plain tensors: a detector's boxes are rows ``(K, 5)``, named outputs a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> Any:
        outputs = self.outputs(*inputs)
        return outputs if isinstance(outputs, torch.Tensor) else tuple(torch.utils._pytree.tree_leaves(outputs))

    def outputs(self, *inputs: torch.Tensor) -> Any:
        """What the model itself returns."""
        if not isinstance(self.model, RoiHead):
            return self.model(*inputs)
        clips, boxes = inputs
        self.model.check_input(clips)
        rows = torch.cat((boxes[:, :1], clip_boxes(boxes[:, 1:], *clips.shape[3:])), dim=1)
        return self.model.forward_head(self.model.forward_features(clips), rows)


@torch.no_grad()
def named_outputs(model: nn.Module, inputs: Inputs) -> Inputs:
    """What the model gives for such inputs, by name, in the order in which an exported model gives it."""
    outputs = _Plain(model).outputs(*inputs.values())
    if isinstance(outputs, torch.Tensor):
        return {"logits" if getattr(model, "num_classes", 0) else "features": outputs}
    if hasattr(outputs, "_asdict"):
        return outputs._asdict()
    return {f"features_{i}": level for i, level in enumerate(torch.utils._pytree.tree_leaves(outputs))}


def _dynamic_shapes(model: nn.Module, inputs: Inputs) -> tuple[dict[int, Dim], ...]:
    """Which sides of the inputs are free."""
    first, *others = inputs
    if isinstance(model, SSN):
        proposals = Dim("proposals")
        return ({2: Dim("frames")}, *({0: proposals} for _ in others))
    return ({0: Dim("batch")}, *({0: Dim(name)} for name in others))


def trace(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The model as a graph of PyTorch's operations; ValueError if it has none."""
    shapes = (_dynamic_shapes(model, inputs),)  # of *inputs, which is one argument
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on PyTorch's own code
            return torch.export.export(_Plain(model), tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
    except (torch._dynamo.exc.UserError, torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{type(model).__name__} cannot be exported by torch.export: {reason}") from error


def _facts(model: nn.Module, format: str, inputs: Inputs, outputs: Inputs) -> dict[str, Any]:
    """What is stored with an exported model."""
    cfg = getattr(model, "pretrained_cfg", {})
    free = _dynamic_shapes(model, inputs)

    def describe(tensor: torch.Tensor, dims: dict[int, Dim]) -> dict[str, Any]:
        sides = [dims[i].__name__ if i in dims else side for i, side in enumerate(tensor.shape)]
        return {"shape": sides, "dtype": str(tensor.dtype).removeprefix("torch.")}

    names = [cfg.get("name", ""), cfg.get("tag", "")]
    return {
        "videozoo": __version__,
        "torch": str(torch.__version__),
        "format": format,
        "name": ".".join(filter(None, names)),
        "architecture": cfg.get("architecture", type(model).__name__),
        "task": cfg.get("task", getattr(model, "task", "")),
        "multi_label": bool(cfg.get("multi_label")),
        "inputs": {name: describe(tensor, dims) for (name, tensor), dims in zip(inputs.items(), free, strict=True)},
        "outputs": list(outputs),
        "data_config": resolve_model_data_config(model) if cfg.get("sampling") else {},
        "labels": catalog.label_names(cfg) if "labels" in cfg else [],
        "license": cfg.get("license", ""),
        "source": cfg.get("url", ""),
    }


# Formats: how a program is written, and how what was written is run --------------------------------------------------

Run = Callable[[Inputs], Iterable[Any]]


def _write_onnx(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    names = {"input_names": list(facts["inputs"]), "output_names": facts["outputs"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the exporter's own code
        try:
            if any(node.target is EMBEDDING_BAG for node in program.graph.nodes):
                program = program.run_decompositions({EMBEDDING_BAG: _embedding_bag})
            onnx = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"{facts['architecture']} has no form in ONNX ({error}): use 'torch_export'") from error
    onnx.model.metadata_props["videozoo"] = json.dumps(facts)
    onnx.save(path, external_data=False)


def _embedding_bag(
    weight: torch.Tensor,
    index: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    share: torch.Tensor | None,
    *_: Any,
) -> tuple[torch.Tensor, ...]:
    """Weighted sums of rows (``F.embedding_bag`` as BMN calls it) by operations that ONNX has."""
    if mode != 0 or share is None:
        return NotImplemented
    count = len(index)
    begins = torch.zeros(count + 1, dtype=torch.int64).index_put((offsets,), torch.ones_like(offsets), accumulate=True)
    bag = begins.cumsum(0)[:count] - 1  # that each row belongs to
    sums = weight.new_zeros(len(offsets), weight.shape[1])
    return sums.index_put((bag,), weight[index] * share[:, None], accumulate=True), bag, bag, bag


def _read_onnx(path: Path) -> Run:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidGraph, errors.NotImplemented) as error:
        reason = str(error).replace(str(path), "the file")
        raise ValueError(f"onnxruntime cannot run this network, so use 'torch_export': {reason}") from error
    return lambda inputs: session.run(None, {name: tensor.cpu().numpy() for name, tensor in inputs.items()})


def _write_archive(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})


def _read_archive(path: Path) -> Run:
    return _tuples(torch.export.load(path).module())


def _write_package(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    configs = {"aot_inductor.metadata": {"videozoo": json.dumps(facts)}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)


def _read_package(path: Path) -> Run:
    return _tuples(torch._inductor.aoti_load_package(str(path)))


def _tuples(module: Callable[..., Any]) -> Run:
    """``module`` on inputs by name, with a tuple of outputs."""

    def run(inputs: Inputs) -> tuple[torch.Tensor, ...]:
        outputs = module(*inputs.values())
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)

    return run


_FORMATS = {
    "onnx": (_write_onnx, _read_onnx),
    "torch_export": (_write_archive, _read_archive),
    "aoti": (_write_package, _read_package),
}
