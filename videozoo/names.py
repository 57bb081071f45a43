"""Model names: their parts, where they point to, and what was probably meant by a wrong one.

``slowfast_r50_8x8_k400.mma0``: architecture, data set, and after the first dot the tag that tells one set of
published weights from another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SCHEMES = ("hf-hub", "local-dir")


def split_scheme(name: str) -> tuple[str, str]:
    """``"hf-hub:org/repo"`` -> ``("hf-hub", "org/repo")``; a plain name has the scheme ``""``.

    Raises:
        ValueError: empty name or id, unknown scheme, or a path or repository without its prefix.
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme.lower() in SCHEMES:
        if not rest:
            target = "<folder>" if scheme.lower() == "local-dir" else "<org/repo>"
            raise ValueError(f"{name!r} names nothing: write {scheme.lower()}:{target}")
        return scheme.lower(), rest
    if not name:
        raise ValueError("the model name is empty: see videozoo.list_models()")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+_-]+", scheme):
        raise ValueError(f"unknown scheme {scheme!r} in {name!r}: use hf-hub:<org/repo> or local-dir:<folder>")
    if re.search(r"[/\\:]", name):
        raise ValueError(
            f"{name!r} looks like a path or a repository: write hf-hub:{name} for the Hugging Face Hub, "
            f"local-dir:{name} for a folder with config.json and model.safetensors"
        )
    return "", name


def split_tag(name: str) -> tuple[str, str]:
    """Name and tag, split at the first dot: ``("slowfast_r50_8x8_k400", "mma0")``; the tag may be empty."""
    base, _, tag = name.partition(".")
    return base, tag


def safe_model_name(name: str) -> str:
    """The name as a file name: schemes and separators become underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key by which r18 comes before r101."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name.lower()) if part]


def nearest_names(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates most like ``name``, best first: same words in another order count as near."""
    words = set(re.split(r"[_.]", name.lower()))

    def likeness(candidate: str) -> float:
        shared = len(words & set(re.split(r"[_.]", candidate)))
        return difflib.SequenceMatcher(None, name.lower(), candidate).ratio() + shared / (len(words) + 1)

    return sorted(set(candidates), key=lambda c: (-likeness(c), natural_key(c)))[:count]
