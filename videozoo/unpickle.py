"""Pickle files of plain data, read without running code from them.

Numbers, text, containers and numpy arrays are admitted, in pickles of Python 2 and 3 alike; any other name in the file
is refused. The standard library alone would call whatever the file names.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


class UnpickleError(ValueError):
    """A pickle is damaged or holds more than plain data; ``refused`` is the name that it asked for, if that is why."""

    def __init__(self, message: str, refused: str = "") -> None:
        super().__init__(message)
        self.refused = refused


class _Refused(Exception):
    """Raised with a name that is not admitted."""


class _Dtype:
    """Stands in for `numpy.dtype`, which a crafted pickle could bring into a state that reads foreign memory."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, ""

    def __setstate__(self, state: tuple) -> None:
        self.order = "" if state[1] == "|" else state[1]

    def resolve(self) -> np.dtype:
        dtype = np.dtype(self.order + self.code)
        if dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"arrays of type {self.code!r} are not read")
        return dtype


class _Array:
    """Stands in for `numpy.ndarray`: keeps what the file says until the whole file is read."""

    value = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C").value


def _from_bytes(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.value = np.frombuffer(data, dtype.resolve()).reshape(shape, order=order).copy(order)
    return array


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.resolve(), count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)


_ADMITTED: dict[str, Any] = {
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytearray": bytearray,
    "builtins.complex": complex,
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
    "__builtin__.bytearray": bytearray,
    "__builtin__.complex": complex,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED |= {
        f"{_core}.multiarray._reconstruct": lambda *_: _Array(),
        f"{_core}.multiarray.scalar": _scalar,
        f"{_core}.numeric._frombuffer": _from_bytes,
    }


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _finished(value: Any) -> Any:
    """The value with arrays in place of their stand-ins, in containers of any depth."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return type(value)((_finished(key), _finished(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_finished(item) for item in value)
    return value


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The object in a pickle file that holds plain data only; text of Python 2 is taken for Latin-1.

    Raises:
        FileNotFoundError: there is no such file.
        UnpickleError: the file is damaged, or names anything but plain containers and numpy arrays.
    """
    with Path(path).open("rb") as file:
        try:
            return _finished(_PlainUnpickler(file, encoding="latin1").load())
        except _Refused as error:
            raise UnpickleError(
                f"{path} is not read: it asks for {error}, which is not plain data.", str(error)
            ) from error
        except (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError) as error:
            raise UnpickleError(f"{path} is no pickle, or a damaged one ({error}).") from error
        except (TypeError, ValueError, pickle.UnpicklingError) as error:
            raise UnpickleError(f"{path} is no pickle of plain data, or a damaged one ({error}).") from error
