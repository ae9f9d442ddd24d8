"""Answers of partitions that are published at the same time are indexed together: one object, and one look for all.

An object for each would cost a small partition more than its rows do. While one group is written, the next gathers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.activities.short_work import short_work
from pipeline.journal.answers.coverage import NewRecords, add_commits
from pipeline.stores import Store

_GATHER_S = 0.1  # that the first one waits for others


@dataclass
class _Group:
    """What is to be indexed in one sink, and those who wait for it."""

    new: list[NewRecords] = field(default_factory=list)
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)


@dataclass
class Indexing:
    """The writers of a process, one for each sink, while there is something to write."""

    _groups: dict[str, _Group] = field(default_factory=dict)
    _writers: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    async def add(self, store: Store, new: Sequence[NewRecords]) -> None:
        """Index the records of committed generations. Raises StoreError."""
        if not new:
            return
        group = self._groups.setdefault(store.uri, _Group())
        group.new.extend(new)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group.waiting.append(written)
        if store.uri not in self._writers:
            with short_work(short=False):  # now and then it merges the answers of many partitions
                self._writers[store.uri] = asyncio.create_task(self._write(store))
        await written

    async def _write(self, store: Store) -> None:
        try:
            await asyncio.sleep(_GATHER_S)
            while (group := self._groups.pop(store.uri, None)) is not None:
                try:
                    await asyncio.to_thread(add_commits, store, group.new)
                except BaseException as exc:
                    self._end(group, exc)
                    if not isinstance(exc, Exception):
                        raise
                else:
                    self._end(group, None)
        finally:
            del self._writers[store.uri]

    def _end(self, group: _Group, exc: BaseException | None) -> None:
        for written in group.waiting:
            if written.done():  # who waited was cancelled
                continue
            if exc is None:
                written.set_result(None)
            else:
                written.set_exception(exc)
