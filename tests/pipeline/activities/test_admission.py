"""Turns: never more at once than there is room for, in the order of asking, and a cancel loses nothing."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pipeline.activities.admission import MemoryAdmission


@given(room=st.integers(1, 10), sizes=st.lists(st.integers(0, 15), max_size=30))
async def test_what_is_in_fits_and_comes_in_order(room: int, sizes: list[int]) -> None:
    turns, inside, most, entered = MemoryAdmission(room), 0, 0, list[int]()

    async def work(number: int, size: int) -> None:
        nonlocal inside, most
        async with turns.reserve(size):
            entered.append(number)
            inside += min(size, room)
            most = max(most, inside)
            for _ in range(number % 3):
                await asyncio.sleep(0)
            inside -= min(size, room)

    await asyncio.gather(*(work(number, size) for number, size in enumerate(sizes)))
    assert entered == list(range(len(sizes)))
    assert most <= room


async def test_one_that_is_cancelled_while_it_waits_lets_those_behind_it_in() -> None:
    turns = MemoryAdmission(2)
    entered: list[str] = []

    async def work(name: str, size: int, hold: asyncio.Event) -> None:
        async with turns.reserve(size):
            entered.append(name)
            await hold.wait()

    hold = asyncio.Event()
    first = asyncio.create_task(work("first", 1, hold))
    await asyncio.sleep(0)
    large = asyncio.create_task(work("large", 2, hold))
    await asyncio.sleep(0)
    small = asyncio.create_task(work("small", 1, hold))
    await asyncio.sleep(0)
    assert entered == ["first"]  # the small one fits, but the large one asked before it
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    await asyncio.sleep(0)
    assert entered == ["first", "small"]
    hold.set()
    await asyncio.gather(first, small)


async def test_one_that_is_cancelled_as_it_is_let_in_gives_its_room_back() -> None:
    turns = MemoryAdmission(1)
    hold, again = asyncio.Event(), list[str]()

    async def work(name: str, until: asyncio.Event | None) -> None:
        async with turns.reserve(1):
            again.append(name)
            if until is not None:
                await until.wait()

    first = asyncio.create_task(work("first", hold))
    await asyncio.sleep(0)
    second = asyncio.create_task(work("second", None))
    await asyncio.sleep(0)
    hold.set()
    await asyncio.sleep(0)  # the first leaves and lets the second in, which has not run yet
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.wait_for(work("third", None), 5)
    assert "third" in again


async def test_room_that_shrinks_lets_in_less_and_never_nothing() -> None:
    turns = MemoryAdmission(10)
    await turns.take(4)
    turns.resize(3)
    waiting = asyncio.create_task(turns.take(8))
    await asyncio.sleep(0)
    assert not waiting.done()
    turns.release(4)
    await asyncio.wait_for(waiting, 5)  # larger than all the room: alone
    turns.release(8)


async def test_room_that_grows_lets_in_who_waits() -> None:
    turns = MemoryAdmission(5)
    await turns.take(4)
    waiting = asyncio.create_task(turns.take(4))
    await asyncio.sleep(0)
    assert not waiting.done()
    turns.resize(8)
    await asyncio.wait_for(waiting, 5)
