"""Time and memory of networks: what ``videozoo bench`` and the scripts in ``benchmarks/`` measure with."""

from .._lazy import attach

_HOMES = {
    "measure": (
        "Timing",
        "example_inputs",
        "in_fresh_process",
        "inference_step",
        "interleave",
        "multiply_adds",
        "peak_memory",
        "relative_difference",
        "training_step",
    ),
}

__all__ = [name for names in _HOMES.values() for name in names]

__getattr__, __dir__ = attach(__name__, _HOMES)
