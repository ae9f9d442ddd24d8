"""Settings for the memory of a worker process: skip lasting objects in collections, return freed memory."""

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # malloc.h
_TRIMMED_ABOVE = 128 * 1024
_CACHED_UP_TO = 4096  # bytes of what jemalloc keeps for each thread
_FREED_KEPT_MS = 100  # by jemalloc, which keeps freed memory for ten seconds of its own accord
# New objects that bring about a collection, and how often one reaches older ones. With Python's 700, 10 and 10,
# hundreds of rows in flight are looked through again and again, for an eighth of a worker's time (by `perf`); this
# saves half of it.
_GARBAGE = (5_000, 20, 20)


def freeze_gc(*, freed: bool = False) -> None:
    """Exclude all existing objects from garbage collections. Call it after something large and lasting was made.
    `freed`: something that was excluded before is garbage now, and is to be collected first: a quarter of a second in
    which nothing else runs, and pages shared with other processes are copied.

    Modules, schemas and compiled graphs are some 300,000 objects. A full collection went through them every 1.6 s for
    200 ms each, found nothing, and every call in flight waited for it: an eighth of the rate (`python -m tests.bench
    throughput`).
    """
    if freed:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def hold_gc() -> None:
    """Collect no garbage until `start_gc`: imports leave little, and collections are a tenth of their time."""
    gc.disable()


def start_gc() -> None:
    """Collect garbage from now on, and leave out all that is imported by now."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_GARBAGE)


def configure_allocators() -> bool:
    """Make glibc and Polars' jemalloc keep little freed memory, and Arrow allocate from glibc. Returns False for
    another malloc than glibc's. Call it before threads start, and before pyarrow and polars are imported.

    By default each of a hundred threads fills its own arena and keeps freed memory there: when eight threads made and
    freed 20 MB, one after the other, 140 MB stayed (`tests/pipeline/test_memory.py`). Arrow's own allocator kept some
    100 MB that batches had freed, jemalloc 30 MB of each worker process with its four arenas for each core
    (`python -m tests.bench memory`). Settings of the environment for any of them are kept."""
    conf = f"narenas:{os.cpu_count() or 1},tcache_max:{_CACHED_UP_TO},dirty_decay_ms:{_FREED_KEPT_MS},muzzy_decay_ms:0"
    os.environ.setdefault("_RJEM_MALLOC_CONF", conf)
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    environment = f"{' '.join(os.environ)} {os.environ.get('GLIBC_TUNABLES', '')}".lower()
    options = {"arena_max": (_M_ARENA_MAX, 1), "trim_threshold": (_M_TRIM_THRESHOLD, _TRIMMED_ABOVE)}
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    return all(libc.mallopt(*option) for name, option in options.items() if name not in environment)
