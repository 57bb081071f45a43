"""``create_model`` and what goes with it: listing, facts, loading, adapting head and input."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from . import catalog, names, registry
from .catalog import Entry

# ---------------------------------------------------------------------------------------------------- listing


def _as_list(patterns: str | Sequence[str] | None) -> list[str]:
    return [] if not patterns else [patterns] if isinstance(patterns, str) else list(patterns)


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return fnmatch.fnmatch(name, pattern) or ("." not in pattern and fnmatch.fnmatch(name, f"{pattern}.*"))


def list_models(
    filter: str | Sequence[str] = "",
    module: str = "",
    pretrained: bool = False,
    *,
    exclude_filters: str | Sequence[str] = "",
    include_tags: bool | None = None,
    dataset: str | None = None,
    task: str | None = None,
    modality: str | None = None,
    min_top1: float | None = None,
    max_params: float | None = None,
) -> list[str]:
    """Names that ``create_model`` takes, in natural order.

    Args:
        filter: shell pattern, or several (a name must match one); without a dot it matches names with any tag.
        module: only models of this family file (``slowfast``).
        pretrained: only entries with published weights, with their tags; otherwise bare architectures are listed too.
        exclude_filters: patterns to leave out, applied after ``filter``.
        include_tags: list each tag on its own; by default where ``pretrained`` is set.
        dataset: short name of the data set (``k400``).
        task: ``recognition``, ...
        modality: ``rgb``, ``flow``, ``audio`` or ``feature`` (of localisers on features).
        min_top1: published top-1 accuracy of at least this many percent.
        max_params: at most this many parameters.

    Raises:
        ValueError: unknown data set, task or modality.
    """
    _check_choice("data set", dataset, catalog.datasets())
    _check_choice("task", task, catalog.TASKS)
    _check_choice("modality", modality, ("rgb", *catalog.MODALITIES, "feature"))
    include_tags = pretrained if include_tags is None else include_tags
    wanted = {"dataset": dataset, "task": task, "modality": modality, "family": module or None}
    rows = [e for e in catalog.entries().values() if all(v is None or getattr(e, k) == v for k, v in wanted.items())]
    if min_top1 is not None:
        rows = [e for e in rows if e.top1 is not None and e.top1 >= min_top1]
    if max_params is not None:
        rows = [e for e in rows if count_parameters(e) <= max_params]
    found = {e.full_name if include_tags else e.name for e in rows}
    if not pretrained and dataset is task is modality is min_top1 is max_params is None:
        found |= {a for a in registry.architectures() if not module or registry.module_of(a) == module}
    include, exclude = _as_list(filter), _as_list(exclude_filters)
    if include:
        found = {name for name in found if any(_matches(name, p) for p in include)}
    return sorted((n for n in found if not any(_matches(n, p) for p in exclude)), key=names.natural_key)


def _check_choice(what: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"there is no {what} {value!r}: did you mean {', '.join(names.nearest_names(value, known))}?")


def list_pretrained(filter: str | Sequence[str] = "", **kwargs: Any) -> list[str]:
    """Names with tag of all entries with published weights; arguments as in :func:`list_models`."""
    return list_models(filter, pretrained=True, **kwargs)


def list_modules() -> list[str]:
    """Files that define architectures, one a family: ``slowfast``, ..."""
    return sorted({registry.module_of(name) for name in registry.architectures()})


def get_arch_pretrained_cfgs(architecture: str) -> dict[str, Entry]:
    """All entries with published weights for a bare architecture, by full name."""
    return {name: entry for name, entry in catalog.entries().items() if entry.architecture == architecture}


def is_model(name: str) -> bool:
    """Whether ``create_model`` knows ``name``: an entry, alias, upstream name or architecture."""
    known = catalog.find_entry(name) or catalog.untrained_facts(name)
    return known is not None or registry.is_architecture(name)


def is_model_pretrained(name: str) -> bool:
    """Whether ``name`` has published weights."""
    return catalog.find_entry(name) is not None


def get_pretrained_cfg(name: str) -> Entry:
    """The catalog's :class:`Entry` for ``name`` (with or without tag, alias or upstream name).

    Raises:
        ValueError: unknown name or tag; the message has the nearest names or the tags.
    """
    entry = catalog.find_entry(name)
    if entry is None:
        raise ValueError(_unknown(name))
    return entry


def get_pretrained_cfg_value(name: str, key: str) -> Any:
    """One field of :func:`get_pretrained_cfg`."""
    return getattr(get_pretrained_cfg(name), key)


def _unknown(name: str) -> str:
    base, tag = names.split_tag(name)
    tags = catalog.tags_of(base)
    if tag and tags:
        return f"{base} has no tag {tag!r}: choose one of {', '.join(tags)}"
    if registry.is_architecture(base):
        trained = sorted({e.name for e in catalog.entries().values() if e.architecture == base}, key=names.natural_key)
        hint = f": weights exist for {', '.join(trained)}" if trained else ""
        return f"{name!r} is a bare architecture without published weights{hint}"
    known = [*catalog.entries(), *{e.name for e in catalog.entries().values()}, *registry.architectures()]
    aliases = [e.alias for e in catalog.entries().values() if e.alias]
    candidates = [*known, *aliases] if tag else [n for n in (*known, *aliases) if "." not in n]
    return f"unknown model {name!r}: did you mean {', '.join(names.nearest_names(name, candidates))}?"


def count_parameters(entry: Entry) -> int:
    """Parameters of an entry's network; nothing is allocated."""
    return _count(entry.architecture, json.dumps(_build_args(entry), sort_keys=True))


@cache
def _count(architecture: str, args: str) -> int:
    return sum(p.numel() for p in _build(architecture, json.loads(args)).parameters())


def model_info(name: str) -> dict[str, Any]:
    """Facts of an entry, architecture or saved model as a plain dict: its entry's fields, ``params``, ``full_name``."""
    if names.split_scheme(name)[0]:
        return _saved_info(name)
    entry = catalog.find_entry(name)
    if entry is None and registry.is_architecture(name):
        model = _build(name, {})
        return {"architecture": name, "family": registry.module_of(name), "num_classes": model.num_classes,
                "in_chans": model.in_chans, "params": sum(p.numel() for p in model.parameters())}  # fmt: skip
    entry = entry or get_pretrained_cfg(name)
    return {"full_name": entry.full_name, **entry.to_dict(), "params": count_parameters(entry)}


def _saved_info(name: str) -> dict[str, Any]:
    """Facts of a model in a folder or a Hub repository, in the form of an entry's, with its ``label_names``."""
    architecture, cfg, _ = _resolve(name, False, None)
    own = {key: value for key, value in cfg.items() if key in catalog.FIELDS}
    defaults = {"tag": "", "family": registry.module_of(architecture), "dataset": ""}
    entry = Entry(**{**defaults, **own, "name": name, "architecture": architecture})
    facts = {**entry.to_dict(), "label_names": catalog.label_names(cfg), "params": count_parameters(entry)}
    return {"full_name": name, **facts, "tag": ""}


def model_table(filter: str | Sequence[str] = "", **kwargs: Any) -> list[dict[str, Any]]:
    """One row a published entry: name, data set, modality, frames, published accuracies, address, licence."""
    rows = []
    for name in list_pretrained(filter, **kwargs):
        entry = catalog.entries()[name]
        best = entry.metrics[0] if entry.metrics else {}
        scores = {k: v for k, v in best.items() if isinstance(v, float | int)}
        rows.append({"name": name, "family": entry.family, "dataset": entry.dataset, "modality": entry.modality,
                     "frames": entry.sampling["frames"] * entry.sampling["segments"], **scores,
                     "pretrain": entry.pretrain, "license": entry.license, "url": entry.url})  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------- building


def _build_args(entry: Entry) -> dict[str, Any]:
    return {**entry.model_args, "num_classes": entry.num_classes, "in_chans": entry.in_chans}


@cache
def _without_filling() -> Any:
    """Class of a mode in which filling tensors does nothing, for the meta device, where there is nothing to fill."""
    import torch
    from torch.overrides import TorchFunctionMode

    tensor, init = torch.Tensor, torch.nn.init
    fills = {tensor.normal_, tensor.uniform_, tensor.zero_, tensor.fill_}
    fills |= {init.normal_, init.uniform_, init.zeros_, init.ones_, init.kaiming_normal_, init.kaiming_uniform_}

    class WithoutFilling(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in fills:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    return WithoutFilling


def _build(architecture: str, kwargs: Mapping[str, Any]) -> Any:
    """The network without memory behind its parameters (meta device): nothing is initialised."""
    import torch

    with torch.device("meta"), _without_filling()():
        return registry.model_entrypoint(architecture)(**kwargs)


def describe_network(entry: Entry) -> Any:
    """The network of an entry as ``create_model`` makes it, but without memory behind its weights."""
    model = _build(entry.architecture, _build_args(entry))
    model.pretrained_cfg = _instance_cfg(model, entry.architecture, entry.to_dict(), {}, is_loaded=True)
    return model


def _draw(model: Any, architecture: str, kwargs: Mapping[str, Any]) -> Any:
    """The network of a meta model with freshly drawn weights."""
    if not registry.is_our_own(architecture):  # what it does to its weights is known to its builder alone
        return registry.model_entrypoint(architecture)(**kwargs)
    import torch

    model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # to_empty, which loads a part of torch's compiler
    model.init_weights()
    return model


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: Entry | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    init: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """A model by name.

    Args:
        name: catalog entry (``slowfast_r50_8x8_k400``, optionally ``.tag``; aliases and upstream names work), bare
            architecture (``slowfast_r50_8x8``), ``hf-hub:org/repo[@revision]`` or ``local-dir:folder``.
        pretrained: load the published weights: from the cache, the Hugging Face Hub or the published address.
        pretrained_cfg: facts to use in place of the catalog's.
        pretrained_cfg_overlay: single facts to replace, e.g. ``{"file": "weights.pth"}``.
        checkpoint_path: weights to load instead, of videozoo or of a source that ``videozoo.convert`` knows.
        init: where weights come from instead: "imagenet" = torchvision's of images, inflated over time, for networks
            that are built on an image network (:mod:`videozoo.inflation`); "scratch" = freshly drawn, as by default.
        cache_dir: where downloads are kept.
        features_only: return a model whose output is the list of its stages' features.
        out_indices: which stages; an int n takes the last n.
        **kwargs: arguments of the architecture (``num_classes``, ``in_chans``, ``drop_rate``, ``num_frames``, ...);
            those that are None are dropped.

    Returns:
        A model in training mode on the CPU: ``(N, C, T, H, W)`` -> logits ``(N, num_classes)``. Published classifiers
        are replaced only where another ``num_classes`` is asked for, first convolutions adapted only for another
        ``in_chans``; everything else must fit exactly.

    Raises:
        ValueError: unknown name or tag, nothing published to load, or weights that do not fit.
    """
    _check_init(init, pretrained, checkpoint_path)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    _check_counts(kwargs)
    if features_only:
        kwargs["num_classes"] = 0
    architecture, cfg, state = _resolve(name, pretrained, cache_dir)
    architecture, cfg = _overridden(architecture, cfg, pretrained_cfg, pretrained_cfg_overlay)
    published = {key: cfg[key] for key in ("num_classes", "in_chans") if key in cfg}
    build_args = {**cfg.get("model_args", {}), **published, **kwargs}
    model = _build(architecture, build_args)

    source = name
    if checkpoint_path is not None:
        source, state = str(checkpoint_path), _read_checkpoint(checkpoint_path)
    elif pretrained and state is None:
        state = _published_state(name, cfg, cache_dir)
    if state is None:
        model = _draw(model, architecture, build_args)
    else:
        from .checkpoint import load_strict

        load_strict(model, _adapt(model, state, cfg, kwargs, source), source=source)
    model.pretrained_cfg = _instance_cfg(model, architecture, cfg, kwargs, is_loaded=state is not None)
    if init == "imagenet":
        from .inflation import load_imagenet

        load_imagenet(model, cache_dir)
    if init:
        model.pretrained_cfg["pretrain"] = "in1k" if init == "imagenet" else ""
    is_own = checkpoint_path is not None or cfg.get("file") or cfg.get("state_dict")
    model.has_published_weights = state is not None and not is_own
    if features_only:
        from .models.recognizer import ClipFeatures

        return ClipFeatures(model, out_indices)
    if out_indices is not None:
        raise ValueError("out_indices chooses feature levels: it needs features_only=True")
    return model


def _check_init(init: str | None, pretrained: bool, checkpoint_path: Any) -> None:
    if init not in (None, "", "imagenet", "scratch"):
        raise ValueError(f"init={init!r} is unknown: use 'imagenet' or 'scratch'")
    if init and (pretrained or checkpoint_path is not None):
        other = "pretrained=True" if pretrained else "checkpoint_path"
        raise ValueError(f"init={init!r} and {other} both say where the weights come from: give one of them")


def _resolve(name: str, pretrained: bool, cache_dir: Any) -> tuple[str, dict[str, Any], Any]:
    """Architecture, facts and, where it comes with the name, state dict of what ``name`` points to."""
    scheme, rest = names.split_scheme(name)
    if scheme:
        from . import hub

        if scheme == "local-dir":
            config = hub.load_config(rest)
            state = hub.load_folder_state(rest) if pretrained else None
        else:
            repo, at, revision = rest.partition("@")
            if at and not revision:
                raise ValueError(f"{name!r} ends in an empty revision: name a branch, tag or commit after the @")
            config = hub.hub_config(repo, revision or None, cache_dir)
            state = hub.hub_state(repo, revision or None, cache_dir) if pretrained else None
        return _from_config(config, name), _config_facts(config), state
    entry = catalog.find_entry(name)
    if entry is not None:
        return entry.architecture, entry.to_dict(), None
    if registry.is_architecture(name):
        return name, catalog.input_facts(name), None
    if untrained := catalog.untrained_facts(name):
        return *untrained, None
    raise ValueError(_unknown(name))


def _from_config(config: Mapping[str, Any], name: str) -> str:
    architecture = config.get("architecture", "")
    if not registry.is_architecture(architecture):
        raise ValueError(
            f"config.json of {name!r} names the architecture {architecture!r}, which this version of videozoo does "
            f"not have: nearest are {', '.join(names.nearest_names(architecture, registry.architectures()))}"
        )
    return architecture


def _config_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a saved model's config.json, in the form of an entry's dict."""
    for key, kind in {"pretrained_cfg": dict, "model_args": dict, "num_classes": int}.items():
        if key in config and not isinstance(config[key], kind):
            raise ValueError(f"config.json: {key!r} must be of type {kind.__name__}, got {config[key]!r}")
    facts = dict(config.get("pretrained_cfg", {}))
    for key in ("architecture", "num_classes", "model_args", "label_names"):
        if key in config:
            facts[key] = config[key]
    return facts


def _check_counts(kwargs: Mapping[str, Any]) -> None:
    for key, least in (("num_classes", 0), ("in_chans", 1)):
        value = kwargs.get(key, least)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{key}={value!r} must be a whole number from {least} on")


def _overridden(
    architecture: str, cfg: Mapping[str, Any], replacement: Any, overlay: Any
) -> tuple[str, dict[str, Any]]:
    """Architecture and facts where the caller gave facts of his own."""
    replacement = replacement.to_dict() if isinstance(replacement, Entry) else replacement
    for given in (replacement, overlay):
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise TypeError(
                f"pretrained_cfg is an Entry or a dict of its fields, got {given!r}: a tag belongs to the name"
            )
        known = {*catalog.FIELDS, "state_dict", "label_names"}
        for key in set(given) - known:
            raise ValueError(
                f"pretrained_cfg has no field {key!r}: did you mean {names.nearest_names(key, known, 1)[0]}?"
            )
    cfg = {**(cfg if replacement is None else replacement), **(overlay or {})}
    architecture = cfg.setdefault("architecture", architecture)
    if not registry.is_architecture(architecture):
        raise ValueError(_unknown(architecture))
    return architecture, cfg


def _instance_cfg(
    model: Any, architecture: str, cfg: dict[str, Any], kwargs: dict[str, Any], is_loaded: bool
) -> dict[str, Any]:
    """What the built model carries in ``pretrained_cfg``: the facts it was made from, true of this instance."""
    args = {**cfg.get("model_args", {}), **{k: v for k, v in kwargs.items() if k not in ("num_classes", "in_chans")}}
    out = {key: value for key, value in cfg.items() if key != "state_dict"}
    out |= {"architecture": architecture, "model_args": args}
    for key in ("num_classes", "in_chans", "first_conv", "classifier"):
        out[key] = getattr(model, key, out.get(key))
    if getattr(model, "input_dims", 5) == 4:
        out["modality"] = "audio"
    if "num_classes" in cfg and cfg["num_classes"] != out["num_classes"]:  # no longer a model of the entry's data set
        pretrain = cfg.get("dataset", "") if is_loaded else ""
        out |= {"name": "", "tag": "", "dataset": "", "labels": "", "label_names": None, "multi_label": False}
        out |= {"metrics": (), "pretrain": pretrain}
    if getattr(model, "task", "") == "detection":
        out |= {"task": "detection", "multi_label": True}
    if not is_loaded:
        out["metrics"] = ()
    sampling, frames = out.get("sampling"), getattr(model, "num_frames", None)
    if frames and sampling and sampling["frames"] == 1 and sampling["segments"] != frames:  # tied to another number
        sets = out["test"]["clips"] // sampling["segments"]
        out["sampling"] = {**sampling, "segments": frames}
        out["test"] = {**out["test"], "clips": sets * frames, "segments": frames}
    return out


# ---------------------------------------------------------------------------------------------------- weights


def _published_state(name: str, cfg: dict[str, Any], cache_dir: Any) -> Mapping[str, Any]:
    """Weights from the first of the entry's sources: state_dict, file, then cache, Hub and published address."""
    from . import hub

    if cfg.get("state_dict"):
        return cfg["state_dict"]
    if cfg.get("file"):
        return _read_checkpoint(cfg["file"])
    if cfg.get("packaged"):
        return _packaged_state(cfg)
    if not cfg.get("url") and not cfg.get("hf_hub_id"):
        if catalog.find_entry(name) is None and registry.is_architecture(name):
            raise ValueError(_unknown(name))
        raise ValueError(f"{name!r} has no published weights: use pretrained=False, or checkpoint_path= for your own")
    known = {key: value for key, value in cfg.items() if key in catalog.FIELDS}
    entry = Entry(**{"name": names.safe_model_name(name), "tag": "", "family": "", "dataset": "", **known})
    return hub.pretrained_state(entry, _converter(cfg), cache_dir=cache_dir)


def _packaged_state(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Weights that come with the package: stored in half precision, used in single."""
    from .checkpoint import load_state_dict, verify_hash

    path = catalog.packaged_weights(cfg["packaged"])
    verify_hash(path, cfg["sha256"])
    return {key: value.float() if value.is_floating_point() else value for key, value in load_state_dict(path).items()}


def _converter(cfg: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    from .convert import convert

    return lambda state: convert(state, cfg.get("conversion", ""))


def _read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """A local file of any known source; a folder is one that ``save_pretrained`` wrote."""
    from .checkpoint import load_state_dict
    from .convert import convert

    if Path(path).is_dir():
        from . import hub

        return hub.load_folder_state(path)
    return convert(load_state_dict(path))


def _adapt(model: Any, state: Mapping[str, Any], cfg: Mapping[str, Any], kwargs: Mapping, source: str) -> dict:
    """Fit published weights to what the caller asked for: another number of classes, other input channels."""
    from .checkpoint import CheckpointError, adapt_first_conv

    state = dict(state)
    if not hasattr(model, "classifier"):  # registered from outside, without timm's surface: it must fit as it is
        return state
    weight, bias = f"{model.classifier}.weight", f"{model.classifier}.bias"
    rows = state[weight].shape[0] if weight in state else None
    if rows is not None and cfg.get("surplus_classes") and rows > cfg["num_classes"]:
        state[weight], state[bias] = state[weight][: cfg["num_classes"]], state[bias][: cfg["num_classes"]]
        rows = cfg["num_classes"]
    if rows is not None and rows != model.num_classes:
        if "num_classes" not in kwargs:
            raise CheckpointError(
                f"{source} has a classifier of {rows} classes, the model one of {model.num_classes}: pass "
                f"num_classes={rows} to keep the file's classifier, or num_classes={model.num_classes} for a new one"
            )
        for name in filter(None, (model.classifier, model.auxiliary_classifier)):
            state.pop(f"{name}.weight", None)
            state.pop(f"{name}.bias", None)
            if model.num_classes:
                state |= _new_classifier(model, name)
        if not model.num_classes and model.auxiliary_classifier:
            head = model.auxiliary_classifier.split(".")[0]
            state = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    for name in model.first_conv:
        key = f"{name}.weight"
        if "in_chans" in kwargs and key in state and state[key].ndim > 1 and state[key].shape[1] != model.in_chans:
            state[key] = adapt_first_conv(state[key], model.in_chans)
    return state


def _new_classifier(model: Any, name: str) -> dict[str, Any]:
    """Freshly drawn weights for a classifier of a model that has no memory yet."""
    import torch

    weight = torch.empty(model.get_submodule(name).weight.shape, device="cpu").normal_(std=model.init_std)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(model.num_classes)}


def load_checkpoint(model: Any, path: str | os.PathLike) -> Any:
    """Load weights of any known source into ``model``, strictly; returns the model.

    Raises:
        ValueError: unreadable file, or keys that do not fit; the message lists every one.
    """
    from .checkpoint import load_strict

    load_strict(model, _read_checkpoint(path), source=str(path))
    return model
