"""What a measurement ran on, and versions of torch and cuDNN that are known to be slow. Importing it is cheap."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["known_trouble", "machine_facts"]

# What changes how memory is given out, and with it the time of every large tensor.
_ALLOCATOR = re.compile(r"^(THP_MEM_ALLOC_ENABLE|MALLOC_.*_|GLIBC_TUNABLES|LD_PRELOAD|PYTORCH(_CUDA)?_ALLOC_CONF)$")


@dataclass(frozen=True)
class _Trouble:
    """A pair of versions: these of torch with cuDNN from ``since`` up to, not including, ``until``."""

    torch: tuple[str, ...]
    since: int
    until: int
    text: str


_KNOWN = (
    _Trouble(
        ("2.9.0", "2.9.1"),
        90000,
        91500,
        "3-D convolutions in bf16 and fp16 take far more memory and time than with other versions "
        "(pytorch issue 166643): install nvidia-cudnn-cu12>=9.15, or another torch.",
    ),
)


def known_trouble(torch_version: str | None = None, cudnn_version: int | None = None) -> str:
    """What is known against this torch with this cuDNN on a GPU, in a sentence; empty where nothing is.

    Versions are ``torch.__version__`` and ``torch.backends.cudnn.version()`` (91002 is 9.10.2), by default those
    that are installed.
    """
    if torch_version is None:
        import torch

        torch_version, cudnn_version = torch.__version__, torch.backends.cudnn.version()
    release = torch_version.partition("+")[0]
    for trouble in _KNOWN:
        if release in trouble.torch and trouble.since <= (cudnn_version or 0) < trouble.until:
            return f"torch {torch_version} with cuDNN {dotted(cudnn_version)}: {trouble.text}"
    return ""


def dotted(cudnn_version: int | None) -> str:
    """91002 as "9.10.2"; empty without cuDNN."""
    if not cudnn_version:
        return ""
    scale = 10000 if cudnn_version >= 90000 else 1000  # cuDNN 8 counts 8907
    return f"{cudnn_version // scale}.{cudnn_version % scale // 100}.{cudnn_version % 100}"


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Versions, threads, processor and allocator settings that a measurement on ``device`` depends on."""
    import torch

    from . import __version__

    onednn = re.search(r"MKL-DNN v([\d.]+)|oneDNN v([\d.]+)", torch.__config__.show())
    on_gpu = str(device).startswith("cuda")
    settings = [f"{key}={value}" for key, value in sorted(os.environ.items()) if _ALLOCATOR.match(key)]
    return {
        "videozoo": __version__,
        "torch": torch.__version__,
        "cudnn": dotted(torch.backends.cudnn.version()) if on_gpu else "",
        "onednn": next(filter(None, onednn.groups())) if onednn and not on_gpu else "",
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "allocator": " ".join(settings) or "default",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_machine(facts: dict[str, Any]) -> str:
    """:func:`machine_facts` in a line."""
    parts = [
        facts["device"],
        f"{facts['threads']} thread{'s' * (int(facts['threads']) != 1)}",
        f"torch {facts['torch']}",
    ]
    parts += [f"{name} {facts[key]}" for key, name in (("cudnn", "cuDNN"), ("onednn", "oneDNN")) if facts[key]]
    return ", ".join([*parts, f"{facts['allocator']} allocator"])


def _processor() -> str:
    """The processor's name with the instructions that matter, such as "AMD EPYC (avx512_bf16)"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    name = facts.get("model name") or platform.processor() or platform.machine()
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    best = next((flag for flag in known if flag in facts.get("flags", "").split()), "")
    return f"{name} ({best})" if best else name
