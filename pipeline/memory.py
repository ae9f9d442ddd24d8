"""The memory of a process that works: what lasts is not looked through again and again, what is freed is given back."""

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # malloc.h
_TRIMMED_ABOVE = 128 * 1024


def freeze_gc() -> None:
    """Set apart all that is there now from garbage collections. Call it when something large and lasting was made; what
    was set apart before and is garbage by now is freed first.

    Modules, schemas and compiled graphs are some 300,000 objects. A full collection went through them every 1.6 s for
    200 ms each, found nothing, and every call in flight waited for it: an eighth of the rate (`python -m tests.bench
    throughput`).
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def configure_allocators() -> bool:
    """Have glibc keep little of what is freed, and Arrow take its memory there; where malloc is another, nothing is
    done. Call it before threads begin, and before pyarrow is imported.

    It would let each of a hundred threads fill an arena of its own, and hold there what it frees: of eight that make
    and free 20 MB, one after the other, 140 MB stayed (`tests/pipeline/test_memory.py`). Arrow's own allocator
    kept some 100 MB that batches had freed (`python -m tests.bench memory`). What the environment says of either holds.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    said = f"{' '.join(os.environ)} {os.environ.get('GLIBC_TUNABLES', '')}".lower()
    wanted = {"arena_max": (_M_ARENA_MAX, 1), "trim_threshold": (_M_TRIM_THRESHOLD, _TRIMMED_ABOVE)}
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    return all(libc.mallopt(*asked) for name, asked in wanted.items() if name not in said)
