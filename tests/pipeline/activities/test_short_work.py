"""What small partitions put into threads takes few of them; nodes of a user's graphs take their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.activities.short_work import ActivityThreads, short_work
from pipeline.stores import LocalStore, MemoryStore
from pipeline.stores.held import HeldStore
from pipeline.stores.s3 import S3Store
from tests.stages.support import Segments, a_row


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[ActivityThreads]:
    threads = ActivityThreads(32)
    asyncio.get_running_loop().set_default_executor(threads)
    yield threads
    threads.shutdown()


async def kinds(pieces: int = 20) -> set[str]:
    """Return the names of the threads, without their number, that so many pieces of work were put into."""

    def work() -> str:
        return threading.current_thread().name

    names = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(pieces)))
    return {name.rpartition("_")[0] for name in names}


async def test_short_work_and_the_tasks_that_it_starts_take_few_threads() -> None:
    assert await kinds() == {"tandem"}
    with short_work():
        task = asyncio.create_task(kinds())
        assert await kinds() == {"tandem-short"}
    assert await task == {"tandem-short"}
    assert await kinds() == {"tandem"}


async def test_what_may_take_long_is_excepted() -> None:
    with short_work():
        with short_work(short=False):
            task = asyncio.create_task(kinds())
        assert await kinds() == {"tandem-short"}
    assert await task == {"tandem"}


async def test_a_node_that_blocks_never_has_one_of_the_few() -> None:
    with short_work(), a_row(Segments().journal()):
        assert await kinds() == {"tandem"}


def test_only_stores_over_a_network_want_many_calls_at_once(tmp_path: Path) -> None:
    memory = MemoryStore("memory")
    assert not any(store.is_remote for store in (memory, LocalStore(tmp_path), HeldStore(memory, "x/", first=True)))
    assert S3Store("bucket").is_remote
