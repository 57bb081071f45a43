"""Settings of the process that make PyTorch faster on a CPU; nothing here happens unless it is called."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

__all__ = ["tune_cpu"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt
LARGEST = 2**31 - 1


def tune_cpu() -> bool:
    """Keep the memory of large tensors for the next ones, in large pages: call it before the first model is made.

    Without it glibc gives every tensor of more than 32 MB back to the system when it is freed, and each one costs a
    page fault for every 4 kB when it is made anew: more time than a batch norm or a ReLU takes.

    The setting is that of the whole process and lasts until it ends. It then holds about as much memory as it has
    ever needed at a time, and a little more at its peak, for what is free cannot be returned. The variable
    ``THP_MEM_ALLOC_ENABLE=1``, which PyTorch reads once, is set too and passes to child processes.

    Returns:
        Whether it took effect: False where the C library is not glibc (macOS, Windows, Alpine).
    """
    done = set_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST})
    if done:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    return done


def set_malloc(options: Mapping[int, int]) -> bool:
    """Set options of glibc's ``mallopt`` for the whole process; False, and nothing done, where there is no glibc."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all([library.mallopt(option, value) for option, value in options.items()])
