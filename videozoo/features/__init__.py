"""Dense features of videos of any length: windows through a network, resumable, with time stamps."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .extraction import Features, extract_features, write_features
    from .storage import feature_facts

_HOMES = {"extraction": ("Features", "extract_features", "write_features"), "storage": ("feature_facts",)}

__all__ = ["Features", "extract_features", "feature_facts", "write_features"]

__getattr__, __dir__ = attach(__name__, _HOMES)
