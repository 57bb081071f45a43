"""Builders of model architectures by name; the files that define them are imported when one is first asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

Builder = TypeVar("Builder", bound=Callable[..., Any])

_builders: dict[str, Callable[..., Any]] = {}
_loaded = False


def register_model(builder: Builder) -> Builder:
    """Decorator: make ``builder`` available to ``create_model`` under its own name.

    The builder takes keyword arguments (``num_classes``, ``in_chans``, ``drop_rate``, ...) and returns the model with
    freshly drawn weights. Works for architectures outside this package too.

    Raises:
        ValueError: another builder has this name.
    """
    name = builder.__name__
    if not _is_ours(builder):
        _load_models()  # so that a name that is taken is told here, not by whoever comes next
    known = _builders.get(name)
    if known is not None and known.__module__ != builder.__module__:
        raise ValueError(f"model {name!r} is already registered by {known.__module__}: choose another name")
    _builders[name] = builder
    return builder


def _load_models() -> None:
    global _loaded
    if not _loaded:
        from . import models

        for module in pkgutil.iter_modules(models.__path__):
            importlib.import_module(f"{models.__name__}.{module.name}")
        _loaded = True


def _is_ours(builder: Callable[..., Any]) -> bool:
    return builder.__module__.startswith(f"{__package__}.models.")


def is_our_own(name: str) -> bool:
    """Whether architecture ``name`` is one of this package, not registered from outside."""
    return _is_ours(model_entrypoint(name))


def architectures() -> list[str]:
    """Names of all registered architectures."""
    _load_models()
    return sorted(_builders)


def is_architecture(name: str) -> bool:
    """Whether ``name`` is a registered architecture."""
    if name in _builders:
        return True
    _load_models()
    return name in _builders


def model_entrypoint(name: str) -> Callable[..., Any]:
    """The builder of architecture ``name``; KeyError if there is none."""
    _load_models()
    return _builders[name]


def module_of(name: str) -> str:
    """The file that defines architecture ``name``, without folder and suffix: ``slowfast``."""
    return model_entrypoint(name).__module__.rsplit(".", 1)[-1]
