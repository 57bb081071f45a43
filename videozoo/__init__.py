"""videozoo: published models for video understanding behind one factory.

>>> import videozoo
>>> model = videozoo.create_model("slowfast_r50_k400", pretrained=True).eval()
>>> videozoo.predict(model, "clip.mp4", topk=5)
"""

from typing import TYPE_CHECKING

from ._lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .catalog import Entry, labels
    from .data import create_transform, load_dataset, open_video, resolve_data_config, resolve_model_data_config
    from .detection import detect
    from .evaluation.metrics import fuse_scores
    from .export import export_model
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
    from .features import extract_features, write_features
    from .hub import push_to_hub, save_pretrained
    from .models.recognizer import group_parameters
    from .names import safe_model_name
    from .optimization import deoptimize, optimize
    from .prediction import predict
    from .registry import model_entrypoint, register_model
    from .streaming import Stream

_HOMES = {
    "catalog": ("Entry", "labels"),
    "data": ("create_transform", "load_dataset", "open_video", "resolve_data_config", "resolve_model_data_config"),
    "detection": ("detect",),
    "evaluation.metrics": ("fuse_scores",),
    "export": ("export_model",),
    "features": ("extract_features", "write_features"),
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
    "optimization": ("deoptimize", "optimize"),
    "prediction": ("predict",),
    "registry": ("model_entrypoint", "register_model"),
    "streaming": ("Stream",),
}

__all__ = [
    "Entry",
    "Stream",
    "create_model",
    "create_transform",
    "deoptimize",
    "detect",
    "export_model",
    "extract_features",
    "fuse_scores",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "group_parameters",
    "is_model",
    "is_model_pretrained",
    "labels",
    "list_models",
    "list_pretrained",
    "load_checkpoint",
    "load_dataset",
    "model_entrypoint",
    "model_info",
    "model_table",
    "open_video",
    "optimize",
    "predict",
    "push_to_hub",
    "register_model",
    "resolve_data_config",
    "resolve_model_data_config",
    "safe_model_name",
    "save_pretrained",
    "write_features",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
