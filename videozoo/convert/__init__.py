"""From the keys of published checkpoints to ours: one file of rules for each source."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from . import mmaction2, pyslowfast, pytorchvideo, torchvision

State = dict[str, Tensor]

SOURCES = {
    "mmaction2": mmaction2,
    "pyslowfast": pyslowfast,
    "pytorchvideo": pytorchvideo,
    "torchvision": torchvision,
}
CONVERSIONS: dict[str, Callable[[Mapping[str, Tensor]], State]] = {k: source.convert for k, source in SOURCES.items()}

VERSIONS = dict.fromkeys(SOURCES, 1)  # to be raised with a source's rules, so that what they gave is converted anew


def detect(keys: Mapping[str, Tensor]) -> str:
    """The source whose keys these are, a key of ``CONVERSIONS``; empty: they are ours, or unknown."""
    return next((name for name, source in SOURCES.items() if source.matches(keys)), "")


def convert(state: Mapping[str, Tensor], conversion: str = "") -> State:
    """``state`` with our keys. ``conversion`` names the rules; empty: they follow from the keys.

    Raises:
        ValueError: there are no rules of this name.
    """
    conversion = conversion or detect(state)
    if not conversion:
        return dict(state)
    if conversion not in CONVERSIONS:
        raise ValueError(f"there are no conversion rules {conversion!r}: choose one of {', '.join(CONVERSIONS)}")
    return CONVERSIONS[conversion](state)
