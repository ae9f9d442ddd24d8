"""Limits of the container: cores, bytes of memory, and the number of kills for lack of memory.

Both versions of control groups are read, from the process's own group up to the root: the smallest limit holds. Where
there is none, the machine's own size does.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_KILLED_FIRST = "500"  # of 1,000
_UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 where version 2 writes "max"


def cores() -> int:
    """Return the cores that may be used at once, at least 1; a quota of 1.5 counts as 2."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders("cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *map(math.ceil, quotas)]))


def memory_bytes() -> int:
    """Return the bytes that the processes of the container may hold together."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = (_text(folder / name) for folder in _folders("memory") for name in ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for text in texts if text.isdigit()]
    return min([machine, *(limit for limit in limits if limit < _UNLIMITED)])


def resident_bytes() -> int:
    """Return the memory of this process in bytes; 0 if the system does not tell."""
    pages = _text(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def oom_kills() -> int:
    """Count the processes of the container that the kernel killed because memory ran out; 0 if unknown."""
    for folder in _folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _text(folder / name).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def be_killed_first() -> None:
    """Let the kernel prefer this process, and those that it starts, when memory runs out: the command and its server
    must live, to run its rows again apart from each other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST)


def _quota(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _folders(controller: str) -> Iterator[Path]:
    """Yield this process's group and those above it, its own first."""
    for line in _text(_MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controllers if controllers else _ROOT
        if controllers and not root.is_dir():
            root = _ROOT / controller
        group = root / path.lstrip("/")
        while True:
            if group.is_dir():
                yield group
            if group in (root, group.parent):
                break
            group = group.parent


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
