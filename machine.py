"""The machine under the service: its cores, its memory, and how many connections it allows."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from pathlib import Path

# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER_BYTES = 1 << 30
_HEAPS = 2


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, and the container's CPU limit.

    Source: cgroup v2's `cpu.max`, a quota and a period in microseconds; Kubernetes sets it from
    `limits.cpu`, and neither Python nor torch looks at it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = limit.read_text().partition(" ") if limit.is_file() else ("max", "", "")
    return max(1, min(cores or 1, -(-int(quota) // int(period)) if quota != "max" else 1 << 16))


def allow_many_connections() -> None:
    """Raise the number of files that this process may open to what the machine allows.

    Each connection is one, and 1024 is usual: beyond, nobody gets in, the probes neither.
    """
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed, for the next batch needs the same again.

    glibc gives large blocks back to the kernel at once, which then clears every page anew: for a
    batch of 16 images 13,000 page faults a pass and a tenth of its time. It also gives each thread
    a heap of its own, which keeps what it freed from the others; with few heaps for all the passes
    of a lane's thread take half the faults. A single one makes two towers that are compiled at once
    wait for each other, so there are two. Elsewhere (musl, macOS) this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _NEVER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)


def give_freed_memory_back() -> None:
    """Give the kernel what is free: what loading took, or smaller batches than the largest.

    See `keep_freed_memory`.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def freeze_gc() -> None:
    """Keep the garbage collector from what is there now and stays: libraries and model.

    With the model libraries these are 440,000 objects, and a pass over them holds up every thread
    for 200 ms.
    """
    gc.collect()
    gc.freeze()
