"""What the published implementation of metrics gives, case by case: inputs and outputs of its functions."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "data" / "metrics"


def decoded(value, arrays):
    """A golden value: arrays as arrays, 'nan' and 'inf' as numbers."""
    if isinstance(value, dict) and "dtype" in value:
        data = arrays[value["npz"]] if "npz" in value else decoded(value["data"], arrays)
        return np.asarray(data, value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: decoded(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item, arrays) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def cases(*names, wanted):
    """The cases of some files that are `wanted`, as parameters of a test."""
    for name in names:
        archive = FOLDER / f"{name}.npz"
        arrays = dict(np.load(archive)) if archive.exists() else {}
        for case in json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))["cases"]:
            if wanted(case):
                yield pytest.param(decoded(case, arrays), id=f"{case['function']}-{case['name']}")
