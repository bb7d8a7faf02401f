"""The machine: its cores, memory, and limit of open connections."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
from contextlib import suppress
from pathlib import Path

# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER_BYTES = 1 << 30
_HEAPS = 2
_STATM = Path("/proc/self/statm")
_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Count the cores that this process may use: its affinity, and the container's CPU limit.

    The affinity follows a cpuset. A limit of 1.5 cores counts as 2, as one thread could not use it.

    Args:
        cgroups: where the control groups are mounted.
        membership: the file with the control groups of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(cores or 1, _cpu_limit(cgroups, membership))))


def _cpu_limit(cgroups: Path, membership: Path) -> float:
    """Return the lowest CPU limit of the process's control groups, in cores; infinity for none.

    Source: a quota and a period in microseconds, in `cpu.max` of cgroup v2 and in two files of v1.
    Kubernetes sets them from `limits.cpu`, but neither Python nor torch reads them. Parent groups
    limit their children too. A container's own group is usually mounted as the root, even if
    `membership` has another path.
    """
    limits = [math.inf]
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if "cpu" not in controllers.split(",") and controllers:
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.lstrip("/")
        holding = (one for one in (group, *group.parents) if one.is_relative_to(root))
        limits.extend(map(_group_limit, holding))
    return min(limits)


def _group_limit(group: Path) -> float:
    with suppress(OSError, ValueError):  # there is no file, or it holds "max"
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf


def allow_many_connections() -> None:
    """Raise this process's limit of open files to the machine's maximum.

    Each connection is an open file. Above the usual limit of 1024 every new connection fails, even
    a probe's.
    """
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory, as the next batch needs it again.

    glibc returns large blocks to the kernel at once, and the kernel clears every page again: for a
    batch of 16 images 13,000 page faults, a tenth of the forward pass. glibc also gives each thread
    a heap (arena), which cannot use memory that other threads freed; with few arenas a worker's
    passes take half the page faults. With a single arena, two towers that are compiled at once wait
    for each other, so there are two. Elsewhere (musl, macOS) this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _NEVER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)


def give_freed_memory_back() -> None:
    """Return free memory to the kernel, such as memory that loading a model took.

    See `keep_freed_memory`.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell it."""
    if not _STATM.is_file():
        return 0
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def freeze_gc() -> None:
    """Exclude all objects that exist now, such as libraries and the model, from garbage collection.

    With the model libraries these are 440,000 objects; collecting them stops every thread for 200
    ms.
    """
    gc.collect()
    gc.freeze()
