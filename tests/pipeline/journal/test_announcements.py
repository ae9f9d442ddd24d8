"""Commands at work on one run tell each other what they have answered."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from pipeline.journal.announcements import Announcements
from pipeline.journal.segments import SegmentWriter
from pipeline.stores import MemoryStore
from schemas import ids
from stages.journal.known import Known
from stages.journal.records import RowRecord
from stages.journal.writer import Journal

RUN = "run-1"
ROWS = [f"{n * 0x1111:016x}{n:016x}" for n in range(1, 9)]


def record(row: str, **given: object) -> RowRecord:
    made = RowRecord("5" * 32, row, f"id-{row}", "ok", '{"a":1}', None, (), RUN, 1.0)
    return replace(made, **given)  # type: ignore[arg-type]


async def answered(announcements: Announcements, *records: RowRecord) -> None:
    """Records in the journal of a batch of that command."""
    writer = SegmentWriter(announcements.store, "day=1", RUN, 0)
    journal = Journal(writer.put, known=Known(), on_stored=lambda rows: announcements.note(writer.last, rows))
    for one in records:
        await journal.append(one)
    await journal.close()


def look(*announcements: Announcements) -> None:
    for each in announcements:
        each.look()


async def recalled(announcements: Announcements, row: str) -> list[RowRecord]:
    found: list[RowRecord] = []
    await announcements.recall(("5" * 32, row), found.append)
    return found


@pytest.fixture
def both() -> tuple[Announcements, Announcements]:
    store = MemoryStore()
    one, other = Announcements(store, RUN, "a" * 16), Announcements(store, RUN, "b" * 16)
    look(one, other, one)
    return one, other


async def test_an_answer_is_known_to_the_other_command_after_a_look_of_each(
    both: tuple[Announcements, Announcements],
) -> None:
    one, other = both
    await answered(one, record(ROWS[0]), record(ROWS[1]))
    assert not other.may_have(("5" * 32, ROWS[0]))
    look(one, other)
    assert other.may_have(("5" * 32, ROWS[0]))
    assert not one.may_have(("5" * 32, ROWS[0])), "its own it knows already"
    found = await recalled(other, ROWS[0])
    assert {each.row for each in found} == {ROWS[0], ROWS[1]}, "its segment is read once, for all that is in it"
    assert all(each.shared for each in found)
    assert await recalled(other, ROWS[1]) == []


async def test_questions_and_rejects_that_are_a_rows_own_are_not_announced(
    both: tuple[Announcements, Announcements],
) -> None:
    one, other = both
    killed = {"error": "RowError", "kind": "killed_worker", "message": "…"}
    own = [record(ROWS[0], status="pending"), record(ROWS[1], status="rejected", error=killed)]
    refused = record(ROWS[2], status="rejected", error={**killed, "kind": "refusal"})
    await answered(one, *own, refused)
    look(one, other)
    assert [other.may_have(("5" * 32, row)) for row in ROWS[:3]] == [False, False, True]


async def test_a_segment_that_is_gone_is_no_answer(both: tuple[Announcements, Announcements]) -> None:
    one, other = both
    await answered(one, record(ROWS[0]))
    look(one, other)
    one.store.delete([info.key for info in one.store.list(ids.JOURNAL)])
    assert await recalled(other, ROWS[0]) == []
    assert not other.may_have(("5" * 32, ROWS[0])), "it is run here, and not looked for again"


async def test_what_was_answered_before_the_other_came_is_announced_to_it() -> None:
    store = MemoryStore()
    one, other = Announcements(store, RUN, "a" * 16), Announcements(store, RUN, "b" * 16)
    one.look()
    await answered(one, record(ROWS[0]))
    one.look()
    assert len(list(store.list(ids.announced(RUN)))) == 1, "nothing is written while it is alone"
    other.look()
    look(one, one, other)
    assert other.may_have(("5" * 32, ROWS[0]))


def test_each_command_begins_elsewhere(both: tuple[Announcements, Announcements]) -> None:
    rows = [(f"{n:02x}{'0' * 30}", n) for n in range(0, 256, 32)]
    orders = []
    for each in both:
        mine = rows[::-1]
        each.sort(mine)
        orders.append([n for _, n in mine])
    assert orders == [[0, 32, 64, 96, 128, 160, 192, 224], [128, 160, 192, 224, 0, 32, 64, 96]]


def test_many_rows_at_once_read_their_segment_once(both: tuple[Announcements, Announcements]) -> None:
    one, other = both

    async def ask() -> list[RowRecord]:
        await answered(one, *(record(row) for row in ROWS))
        look(one, other)
        found: list[RowRecord] = []
        await asyncio.gather(*(other.recall(("5" * 32, row), found.append) for row in ROWS))
        return found

    assert len(asyncio.run(ask())) == len(ROWS)


def test_what_is_noted_while_a_thread_looks_is_announced_once_and_whole(
    both: tuple[Announcements, Announcements],
) -> None:
    one, other = both
    rows = [f"{n:016x}{n:016x}" for n in range(1, 2_001)]
    over = threading.Event()

    def keep_looking() -> None:
        while not over.is_set():
            look(one, other)

    looking = threading.Thread(target=keep_looking)
    looking.start()
    for number, row in enumerate(rows):
        one.note(f"segment-{number}", [record(row)])
    over.set()
    looking.join()
    look(one, other)
    assert all(other.may_have(("5" * 32, row)) for row in rows)
    assert one._waiting == len(one._unannounced) == 0
