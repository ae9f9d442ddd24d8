"""What a child may hold: the smallest limit of its runs, else its share; always what it needs to begin."""

import pytest

from pipeline.processes.child import memory_limit
from pipeline.processes.child.memory_limit import MemoryLimit


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process holds, which a test changes."""
    bytes_held = [200_000_000]
    monkeypatch.setattr(memory_limit, "resident_bytes", lambda: bytes_held[0])
    return bytes_held


def test_without_a_run_that_sets_one_it_is_the_share(held: list[int]) -> None:
    limit = MemoryLimit(1_000_000_000, progress=True)
    limit.begin(None)
    held[0] = 999_000_000
    assert limit.excess() == ""
    held[0] = 1_001_000_000
    assert limit.excess() == "it holds 1,001 MB of 1,000 MB"


def test_the_smallest_limit_of_the_runs_holds(held: list[int]) -> None:
    limit = MemoryLimit(1_000_000_000, progress=True)
    for of_run in (3_000_000_000, None, 2_000_000_000, 2_500_000_000):
        limit.begin(of_run)
    assert limit.bytes == 2_000_000_000


def test_what_every_child_needs_to_begin_replaces_none(held: list[int]) -> None:
    limit = MemoryLimit(1_000_000, progress=True)
    limit.begin(None)
    assert limit.excess() == ""
    held[0] += 65_000_000
    assert limit.excess() != ""


def test_no_limit_is_none(held: list[int]) -> None:
    limit = MemoryLimit()
    limit.begin(None)
    assert (limit.bytes, limit.excess()) == (0, "")


def test_a_child_that_has_ended_no_row_is_not_replaced(held: list[int]) -> None:
    """The next one would need as much for the same rows, and get no further."""
    limit = MemoryLimit(1_000_000_000)
    limit.begin(None)
    held[0] = 3_000_000_000
    assert limit.excess() == ""
    limit.progress = True
    assert limit.excess() != ""


def test_room_is_what_the_child_did_not_hold_before(held: list[int]) -> None:
    limit = MemoryLimit(1_000_000_000)
    limit.begin(None)
    held[0] = 900_000_000
    limit.begin(None)
    assert limit.room == 800_000_000
