"""What lasts is set apart from collections, and what was set apart and has become garbage is freed the next time; what
threads free goes back to the machine."""

import gc
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from pipeline import memory


class Node:
    def __init__(self) -> None:
        self.itself = self  # so that only a collection frees it


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_there_is_looked_at_no_more() -> None:
    memory.freeze_gc()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects(generation=2)) < gc.get_freeze_count() / 10


def test_what_becomes_garbage_after_it_was_set_apart_is_freed_by_the_next_that_is_to() -> None:
    node = Node()
    seen = weakref.ref(node)
    memory.freeze_gc()
    del node
    gc.collect()
    assert seen() is not None
    memory.freeze_gc(freed=True)
    assert seen() is None


# Eight threads that live at once, one after the other, make 20 MB and free all but the last of it.
FILLING = """
import sys, threading
from pipeline import memory

if sys.argv[1:] == ["given back"]:
    memory.configure_allocators()
kept, turn, everybody = [], threading.Lock(), threading.Barrier(8)

def fill():
    with turn:
        blocks = [bytes(5_000) for _ in range(4_000)]
        kept.append(blocks[-1])
        del blocks
    everybody.wait()

threads = [threading.Thread(target=fill) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(int(open("/proc/self/statm").read().split()[1]) * 4096 // 1_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_threads_have_freed_is_given_back() -> None:
    def resident_mb(*how: str) -> int:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", FILLING, *how]
        return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

    assert resident_mb("given back") < resident_mb() - 80


COMMAND = """
import os, sys
from pipeline.cli.__main__ import entry

os._exit = lambda code: None
sys.argv = ["tandem", "--help"]
entry()
import pyarrow

print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
@pytest.mark.parametrize(("said", "pool"), [({}, "system"), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}, "mimalloc")])
def test_a_command_takes_memory_for_arrow_where_it_is_given_back(said: dict[str, str], pool: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ARROW_")}
    command = [sys.executable, "-c", COMMAND]
    ran = subprocess.run(command, env={**env, **said}, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == pool
