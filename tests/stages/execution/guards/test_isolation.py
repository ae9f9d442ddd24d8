"""Suspects are tried in halves: the guilty are found, and nobody else is rejected."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stages.execution.guards.isolation import KILLED, Attempt, GraphRow, run_in_halves
from stages.journal.records import Record, RowKey, RowRecord, now


def a_row(number: int) -> GraphRow:
    return GraphRow(("stage", f"row-{number}"), f"id-{number}", {}, 1)


def an_answer(row: GraphRow) -> RowRecord:
    return RowRecord(*row.key, row.id, "ok", "{}", None, (), "run", now())


class Processes:
    """A process runs `at_once` rows at a time and dies at the first guilty one; what had ended before is kept."""

    def __init__(self, guilty: set[RowKey], at_once: int, from_outside: int = 0) -> None:
        self.guilty, self.at_once, self.from_outside = guilty, at_once, from_outside
        self.taken: dict[RowKey, RowRecord] = {}
        self.started = 0

    async def attempt(self, rows: Sequence[GraphRow]) -> Attempt:
        self.started += 1
        if self.from_outside:
            self.from_outside -= 1
            return Attempt()
        done: list[Record] = []
        for first in range(0, len(rows), self.at_once):
            flying = rows[first : first + self.at_once]
            if any(row.key in self.guilty for row in flying):
                return Attempt(done, "ended with 9", frozenset(row.key for row in flying))
            done += [an_answer(row) for row in flying]
        return Attempt(done)

    async def take(self, records: Sequence[Record]) -> None:
        self.taken.update((record.key, record) for record in records if isinstance(record, RowRecord))

    def run(self, rows: Sequence[GraphRow]) -> None:
        left = lambda row: row.key not in self.taken  # noqa: E731
        asyncio.run(run_in_halves(rows, "run", self.attempt, self.take, left, lambda: False))

    def killed(self) -> set[RowKey]:
        return {key for key, record in self.taken.items() if record.error and record.error["kind"] == KILLED}


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=6), st.integers(1, 60), st.integers(0, 3))
def test_each_row_has_an_outcome_and_only_the_guilty_are_rejected(
    count: int, guilty: set[int], at_once: int, from_outside: int
) -> None:
    rows = [a_row(number) for number in range(count)]
    keys = {rows[number].key for number in guilty if number < count}
    processes = Processes(keys, at_once, from_outside)
    processes.run(rows)
    assert set(processes.taken) == {row.key for row in rows}
    assert processes.killed() == keys


def test_two_of_forty_take_few_processes() -> None:
    rows = [a_row(number) for number in range(40)]
    processes = Processes({rows[7].key, rows[23].key}, at_once=40)
    processes.run(rows)
    assert processes.killed() == {rows[7].key, rows[23].key}
    assert processes.started <= 26


def test_a_row_that_kills_once_is_answered_by_the_next_attempt() -> None:
    rows = [a_row(number) for number in range(8)]
    processes = Processes({rows[3].key}, at_once=8)
    attempt = processes.attempt

    async def forgiving(group: Sequence[GraphRow]) -> Attempt:
        found = await attempt(group)
        if len(group) == 1:
            processes.guilty.clear()
        return found

    processes.attempt = forgiving  # type: ignore[method-assign,assignment]
    processes.run(rows)
    assert processes.killed() == set()
    assert len(processes.taken) == 8
