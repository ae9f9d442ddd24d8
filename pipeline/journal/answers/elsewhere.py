"""The records of some rows in the journals of other partitions, and of other sinks (`journal.read_from`).

An answer belongs to the dataset: a row that moves, and rows that are equal, find it wherever it was asked first. What
is found here is copied into the partition's own journal by the batch that uses it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.journal.answers import coverage
from pipeline.journal.join import JournalJoin, Place, collect, hashed
from pipeline.process_state import COMMAND
from pipeline.stores import Store


@dataclass(frozen=True)
class Needed:
    """What a partition's own journal lacks: identities of rows, and row fingerprints by stage, all hashed."""

    ids: pl.Series
    rows: Sequence[tuple[str, pl.Series]]

    @property
    def keys(self) -> pl.Series:
        """Return the keys by which the index is searched, each once."""
        by_stage: list[pl.Series] = [rows ^ hashed([stage]).item() for stage, rows in self.rows]
        return pl.concat([self.ids, *by_stage]).drop_nulls().unique()

    @property
    def hashes(self) -> pl.Series:
        """Return the identities and row fingerprints, by which journals are searched."""
        return pl.concat([self.ids, *(rows for _, rows in self.rows)]).drop_nulls().unique()


@dataclass(frozen=True)
class OtherJournals:
    """The journals of a sink and of those that it reads from, as this process sees them."""

    store: Store
    read_from: Sequence[Store] = ()

    def may_have_answers(self) -> bool:
        """Return False if no other journal has any, as at the first run of a sink."""
        indexes = (coverage.index_of(self.store, origin) for origin in (None, *self.read_from))
        return any(not index.is_empty() for index in indexes) or any(True for _ in self._unindexed())

    def collect(self, partition: str, needed: Needed, folder: Path, *, requests: bool = True) -> JournalJoin | None:
        """Collect the records of these rows, and the requests of their calls, from other journals than the partition's
        own; None if there are none. Raises StoreError."""
        keys = needed.keys
        if not keys.len():
            return None
        places = [place for place in self._places(keys) if place != (self.store, partition)]
        return collect(places, needed.hashes, folder, "elsewhere", requests=requests) if places else None

    def _places(self, keys: pl.Series) -> list[Place]:
        places: dict[Place, None] = {}
        for origin in (None, *self.read_from):
            found = coverage.index_of(self.store, origin).find(keys)["partition"].unique(maintain_order=True)
            places |= dict.fromkeys((origin or self.store, name) for name in found)
        return list(places | dict.fromkeys(self._unindexed()))

    def _unindexed(self) -> Iterator[Place]:
        """Yield the journals that have to be read directly. Not those that this command writes: its rows share their
        answers while they are at work (`stages.execution.equal_rows.single_flight`)."""
        for origin in (self.store, *self.read_from):
            for one in coverage.marked(origin):
                if origin is not self.store or one.command != COMMAND.name:
                    yield origin, one.partition
