"""Checkpoint files: reading without running code from them, hashes, strict loading, atomic writing.

Nothing here knows a model family or the catalog. Torch files of every age (zip and the serialisation before torch 1.6)
and safetensors are recognised by content, whatever their name; so are pickles of numpy arrays, as Caffe2 left them.
"""

import argparse
import contextlib
import datetime
import hashlib
import os
import pickle
import re
import secrets
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .unpickle import UnpickleError, load_plain_pickle

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model", "module", "blobs")
_PREFIXES = ("module.", "_orig_mod.")
_COUNTER = "num_batches_tracked"
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # begins torch files before 1.6, which are pickles as well
_PICKLE_STARTS = (*(bytes((0x80, protocol)) for protocol in range(2, 6)), b"(d", b"}")
_BROKEN = (  # what torch, zipfile and the restricted unpickler raise for damaged bytes
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


class CheckpointError(ValueError):
    """A checkpoint file cannot be read or trusted, or its weights do not fit the model. The message names the file."""


# Reading -------------------------------------------------------------------------------------------------------------


class _PlainDtype:
    """Stands in for `numpy.dtype` in a pickle: numbers and strings only, since a crafted dtype can corrupt memory."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.code = ("" if order == "|" else order) + self.code

    def resolve(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"numpy values of type {self.code!r} are not read")
        return dtype


class _PlainArray(np.ndarray):
    """Stands in for `numpy.ndarray` in a pickle; its contents come as raw bytes of a plain dtype."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.resolve(), fortran, data))


def _new_array(*_: Any) -> np.ndarray:
    return _PlainArray((0,), np.uint8)


def _new_scalar(dtype: _PlainDtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.resolve(), count=1)[0]


# Pickled names that published files use beside tensors, and what they become. All are inert values; none can call code.
_SAFE_GLOBALS: dict[str, Any] = {
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "datetime.time": datetime.time,
    "datetime.timedelta": datetime.timedelta,
    "datetime.timezone": datetime.timezone,
    "time.struct_time": time.struct_time,
    "argparse.Namespace": argparse.Namespace,
    "numpy.dtype": _PlainDtype,
    "numpy.ndarray": _PlainArray,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": _new_scalar,
    "numpy._core.multiarray.scalar": _new_scalar,
}
_safe_globals_lock = threading.Lock()  # torch keeps its allow-list in one process-wide set


@contextlib.contextmanager
def _allowed_globals() -> Iterator[None]:
    with _safe_globals_lock, torch.serialization.safe_globals([(obj, name) for name, obj in _SAFE_GLOBALS.items()]):
        yield


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The object stored in a safetensors or torch file or in a pickle of numpy arrays, with tensors on the CPU.

    Torch files are read with `weights_only=True` and a short list of inert metadata types (numpy numbers and arrays,
    dates, `argparse.Namespace`). Pickles without torch, of Python 2 too, may hold numpy arrays, containers, strings and
    numbers; arrays, and numbers that are values of a dict, become tensors. Zip files are checked against their own
    checksums and mapped rather than copied, so the file must not be rewritten in place while the tensors are in use.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, damaged, no checkpoint, or wants to run code.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint file; give the file in it, or 'local-dir:{path}'.")
    if not path.exists():
        raise FileNotFoundError(f"Checkpoint file {path} does not exist; check the path.")
    with path.open("rb") as file:
        head = file.read(1024)
    size = path.stat().st_size
    foreign = _foreign_content(head)
    if foreign:
        raise CheckpointError(f"{path} {foreign}")
    if path.suffix == ".safetensors" or _looks_like_safetensors(head, size):
        return _read_safetensors(path)
    if head.startswith(_PICKLE_STARTS) and _TORCH_MAGIC not in head[:64]:
        return _read_pickle(path)
    return _read_torch(path, zipped=head.startswith(b"PK\x03\x04"))


def _foreign_content(head: bytes) -> str:
    """What the file is instead of a checkpoint, as the end of a sentence; empty if it may be one."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty, so it is no checkpoint; download or copy it again."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page (probably a server's error message), not a checkpoint; download it again."
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the checkpoint itself; run 'git lfs pull' in its repository."
    return ""


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and 8 + int.from_bytes(head[:8], "little") <= size and head[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download or write it again."
        ) from error


def _read_torch(path: Path, zipped: bool) -> Any:
    try:
        if zipped and (damage := _zip_damage(path)):
            raise CheckpointError(f"{path} is damaged: {damage}; download or copy it again.")
        with _allowed_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except _BROKEN as error:
        blocked = _blocked_globals(path, zipped, str(error))
        if blocked:
            raise CheckpointError(_refusal(path, blocked)) from error
        raise CheckpointError(
            f"{path} is no readable torch checkpoint ({_first_line(error)}); if it should be one, it is damaged or "
            "incomplete: download or copy it again."
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        return _with_tensors(load_plain_pickle(path))
    except UnpickleError as error:
        if error.refused:
            raise CheckpointError(_refusal(path, [error.refused])) from error
        raise CheckpointError(
            f"{path} is a damaged or incomplete pickle ({_first_line(error)}): download or copy it again."
        ) from error


def _with_tensors(obj: Any) -> Any:
    """Arrays as tensors, and in dicts numbers as well; containers are made anew."""
    if isinstance(obj, np.ndarray):
        return torch.from_numpy(np.array(obj, obj.dtype.newbyteorder("="))) if obj.dtype.kind in "biufc" else obj
    if isinstance(obj, list | tuple):
        return type(obj)(_with_tensors(item) for item in obj)
    if isinstance(obj, dict):
        numbers = (bool, int, float, np.generic)
        return {k: torch.tensor(v) if isinstance(v, numbers) else _with_tensors(v) for k, v in obj.items()}
    return obj


def _refusal(path: Path, blocked: list[str]) -> str:
    return (
        f"{path} was not read because it refers to {', '.join(blocked)}: videozoo does not run code from checkpoints; "
        "if you trust the file, load it with its own library and save the state dict alone."
    )


def _zip_damage(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "the end of the zip archive is missing, the file is cut off"
    with zipfile.ZipFile(path) as archive:
        name = archive.testzip()
    return f"the checksum of {name!r} in it is wrong" if name else ""


def _blocked_globals(path: Path, zipped: bool, message: str) -> list[str]:
    """Names that the restricted unpickler refused: all of them for zip files, the first one for older files."""
    found = re.search(r"GLOBAL (\S+) (?:was not|whose module)", message)
    if not found:
        return []
    if zipped:
        with contextlib.suppress(*_BROKEN), _allowed_globals():
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or [found[1]]
    return [found[1]]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    detail = re.search(r"WeightsUnpickler error: *(.*)", text)
    lines = (detail[1] if detail else text).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


# State dicts ---------------------------------------------------------------------------------------------------------


def state_dict_of(obj: Any, container: str = "") -> dict[str, Tensor]:
    """The state dict inside a checkpoint object, with wrapper prefixes (`module.`, `_orig_mod.`) removed.

    `container` is the key that holds it, with dots for nesting (`"model.backbone"`). A bare dict of tensors is taken as
    it is, whatever `container` says. Without `container` the first of `state_dict_ema`, `model_ema`, `state_dict`,
    `model_state`, `model`, `module`, `blobs` that holds a dict is taken: averaged weights before raw ones.
    (`ema_state_dict` is not among them: the trainer that writes it stores the raw copy there.) Flattened copies,
    `ema_layer_weight` beside `layer.weight`, are dropped.

    Raises CheckpointError if there is no such dict, or if it holds anything but tensors.
    """
    if not isinstance(obj, Mapping):
        raise CheckpointError(f"A state dict was expected, but the checkpoint holds a {type(obj).__name__}.")
    found = obj if _all_tensors(obj) else _inside(obj, container) if container else _find(obj)
    others = [f"{key} ({type(value).__name__})" for key, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"The state dict holds {len(others)} values that are no tensors: {_some(others)}; "
            "name the right part with container=."
        )
    if not found:
        raise CheckpointError("The state dict is empty; check the file, or name the part with container=.")
    state = _strip_prefixes({str(key): value.detach() for key, value in found.items()})
    flattened = {"ema_" + key.replace(".", "_") for key in state}
    return {key: value for key, value in state.items() if key not in flattened}


def _all_tensors(obj: Mapping) -> bool:
    return bool(obj) and all(isinstance(value, Tensor) for value in obj.values())


def _inside(obj: Mapping, container: str) -> Mapping:
    part: Any = obj
    for name in container.split("."):
        if not isinstance(part, Mapping) or name not in part:
            keys = [str(key) for key in part] if isinstance(part, Mapping) else [type(part).__name__]
            raise CheckpointError(f"The checkpoint has no {container!r} (no {name!r} among {_some(keys)}).")
        part = part[name]
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{container!r} in the checkpoint is a {type(part).__name__}, not a state dict.")
    return part


def _find(obj: Mapping) -> Mapping:
    for name in _CONTAINERS:
        if isinstance(obj.get(name), Mapping):
            return obj[name]
    raise CheckpointError(
        f"No state dict was found among the checkpoint's keys {_some([str(key) for key in obj])}; "
        "name the one that holds it with container=."
    )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "none"


def load_state_dict(path: str | os.PathLike, container: str = "") -> dict[str, Tensor]:
    """Tensors by key from a checkpoint file: `read_checkpoint`, then `state_dict_of`; errors name the file."""
    obj = read_checkpoint(path)
    try:
        return state_dict_of(obj, container)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The strings in the header of a safetensors file; CheckpointError if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); download it again.") from error


# Writing and hashes --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well and removed when it does not.

    Missing folders are made. The file gets the permissions that the process's umask gives to new files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state_dict(
    state: Mapping[str, Tensor] | nn.Module, path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes tensors (or a module's state dict) to a safetensors file, completely or not at all.

    `metadata` adds strings to the header beside `format = "pt"`. Raises CheckpointError if two entries share memory
    (the format cannot say so) or if one has no data (meta device).
    """
    from safetensors.torch import save_file

    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    no_data = [key for key, value in tensors.items() if value.is_meta]
    if no_data:
        raise CheckpointError(f"{path} was not written: {_some(no_data)} are on the meta device; load weights first.")
    shared = _shared_keys(tensors)
    if shared:
        raise CheckpointError(
            f"{path} was not written: {_some([f'{a} and {b}' for a, b in shared])} share memory, "
            "which safetensors cannot store; clone one of them or leave it out."
        )
    with atomic_path(path) as temporary:
        tensors = {key: value.cpu() for key, value in tensors.items()}
        save_file(tensors, temporary, metadata={"format": "pt", **(metadata or {})})
    return Path(path)


def _shared_keys(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of keys whose (contiguous) tensors overlap in memory."""
    spans = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), key)
        for key, t in tensors.items()
        if t.numel()
    )
    return [(a[3], b[3]) for a, b in zip(spans, spans[1:], strict=False) if a[0] == b[0] and b[1] < a[2]]


def sha256_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(model: nn.Module) -> str:
    """sha256 of the architecture, and of names, types, shapes and values of all weights."""
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)
    digest = hashlib.sha256(str(architecture).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def verify_hash(path: str | os.PathLike, expected_hex_prefix: str) -> str:
    """The file's SHA-256, which must begin with `expected_hex_prefix` (any case); CheckpointError otherwise."""
    found = sha256_file(path)
    if not found.startswith(expected_hex_prefix.lower()):
        raise CheckpointError(
            f"{path} has the wrong content: its sha256 should begin with {expected_hex_prefix.lower()} but is {found}; "
            "delete the file and download it again."
        )
    return found


# Into a model --------------------------------------------------------------------------------------------------------


def load_strict(model: nn.Module, state: Mapping[str, Tensor], *, source: str = "") -> None:
    """Copies `state` into `model`; every key and shape must fit, or nothing is changed and CheckpointError lists all.

    Works for models on the meta device too: they get their own copies, on the device of the tensors in `state`, and
    keep `requires_grad`. Values take the model's dtype, so half-precision files fill float32 models. Only counters of
    batch norm (`num_batches_tracked`), which old files lack, may be missing; they become 0. Non-persistent buffers on
    the meta device are made by the `init_non_persistent_buffers()` of the module that owns them.

    Args:
        source: what the weights come from (file or entry name), for the message.
    """
    targets = model.state_dict()
    owners = _owners_of_meta_buffers(model)
    problems = _mismatches(targets, state)
    if problems:
        raise CheckpointError(_report(type(model).__name__, source, problems))
    on_meta = any(target.is_meta for target in targets.values())
    values = {}
    for key, target in targets.items():
        value = state[key] if key in state else torch.zeros(target.shape, dtype=target.dtype)
        if on_meta:
            device = value.device if target.is_meta else target.device
            value = value.detach().to(device, target.dtype, copy=True, memory_format=torch.contiguous_format)
        values[key] = value
    model.load_state_dict(values, strict=True, assign=on_meta)
    for module in owners:
        module.init_non_persistent_buffers()


def _owners_of_meta_buffers(model: nn.Module) -> list[nn.Module]:
    """Modules with non-persistent buffers on the meta device, all of which can make them anew."""
    owners = []
    for path, module in model.named_modules():
        names = [name for name in module._non_persistent_buffers_set if getattr(module, name) is not None]
        if any(getattr(module, name).is_meta for name in names):
            if not hasattr(module, "init_non_persistent_buffers"):
                raise CheckpointError(
                    f"{type(model).__name__} cannot leave the meta device: {path or 'the model'} has the buffers "
                    f"{_some(names)} but no init_non_persistent_buffers() to fill them; build it on a real device."
                )
            owners.append(module)
    return owners


def _mismatches(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Lines of the report by kind; empty when `state` fits."""
    missing = [f"{k} {tuple(t.shape)}" for k, t in targets.items() if k not in state and not k.endswith(_COUNTER)]
    unexpected = [f"{k} {tuple(t.shape)}" for k, t in state.items() if k not in targets]
    shared = [(k, t, state[k]) for k, t in targets.items() if k in state]
    misshapen = [
        f"{k}: {tuple(v.shape)} in the checkpoint, {tuple(t.shape)} in the model"
        for k, t, v in shared
        if v.shape != t.shape
    ]
    mistyped = [
        f"{k}: {v.dtype} in the checkpoint, {t.dtype} in the model"
        for k, t, v in shared
        if v.is_floating_point() != t.is_floating_point() and not k.endswith(_COUNTER)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen, "of another type": mistyped}
    return {kind: lines for kind, lines in kinds.items() if lines}


def _report(model: str, source: str, problems: dict[str, list[str]]) -> str:
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in problems.items())
    summary = f"The weights of {source} do" if source else "The state dict does"
    lines = [f"{summary} not fit {model}: {counts}; check that checkpoint and model name belong together."]
    for kind, keys in problems.items():
        lines.append(f"{kind} ({len(keys)}):")
        lines.extend(f"  {key}" for key in keys)
    return "\n".join(lines)


def adapt_first_conv(weight: Tensor, in_chans: int) -> Tensor:
    """Weight of a first convolution, (out, C, kH, kW) or (out, C, kT, kH, kW), for `in_chans` input channels.

    One channel: the sum over C, so that a grey clip gives what it gave as three equal channels. Another number: the
    channels of the weight are repeated in turn and scaled by C / in_chans, so that activations keep their size.
    """
    if weight.ndim not in (4, 5):
        raise ValueError(
            f"The weight of a first convolution has 4 or 5 dimensions, not the shape {tuple(weight.shape)}."
        )
    if in_chans < 1:
        raise ValueError(f"in_chans is {in_chans}, but a convolution needs at least 1 input channel.")
    channels = weight.shape[1]
    if in_chans == channels:
        return weight
    wide = weight.float() if weight.is_floating_point() and weight.element_size() < 4 else weight
    if in_chans == 1:
        adapted = wide.sum(dim=1, keepdim=True)
    else:
        index = torch.arange(in_chans, device=weight.device) % channels
        adapted = wide[:, index] * (channels / in_chans)
    return adapted.to(weight.dtype)
