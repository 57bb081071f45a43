"""videozoo: published models for video understanding behind one factory.

>>> import videozoo
>>> model = videozoo.create_model("slowfast_r50_k400", pretrained=True).eval()
>>> videozoo.predict(model, "clip.mp4", topk=5)
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .catalog import Entry, labels
    from .data import create_transform, open_video, resolve_data_config, resolve_model_data_config
    from .factory import (
        create_model,
        get_pretrained_cfg,
        get_pretrained_cfg_value,
        is_model,
        is_model_pretrained,
        list_models,
        list_pretrained,
        load_checkpoint,
        model_info,
        model_table,
    )
    from .hub import push_to_hub, save_pretrained
    from .models.recognizer import group_parameters
    from .names import safe_model_name
    from .prediction import predict
    from .registry import model_entrypoint, register_model

_HOME = {
    "catalog": ("Entry", "labels"),
    "data": ("create_transform", "open_video", "resolve_data_config", "resolve_model_data_config"),
    "factory": (
        "create_model",
        "get_pretrained_cfg",
        "get_pretrained_cfg_value",
        "is_model",
        "is_model_pretrained",
        "list_models",
        "list_pretrained",
        "load_checkpoint",
        "model_info",
        "model_table",
    ),
    "hub": ("push_to_hub", "save_pretrained"),
    "models.recognizer": ("group_parameters",),
    "names": ("safe_model_name",),
    "prediction": ("predict",),
    "registry": ("model_entrypoint", "register_model"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Entry",
    "create_model",
    "create_transform",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "group_parameters",
    "is_model",
    "is_model_pretrained",
    "labels",
    "list_models",
    "list_pretrained",
    "load_checkpoint",
    "model_entrypoint",
    "model_info",
    "model_table",
    "open_video",
    "predict",
    "push_to_hub",
    "register_model",
    "resolve_data_config",
    "resolve_model_data_config",
    "safe_model_name",
    "save_pretrained",
]


def __getattr__(name: str):  # public names are imported on first use, so that importing the package costs nothing
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'videozoo' has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
