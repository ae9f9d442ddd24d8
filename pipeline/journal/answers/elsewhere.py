"""The records of some rows in the journals of other partitions, and of other sinks (`journal.read_from`).

An answer belongs to the dataset: a row that moves, and rows that are equal, find it wherever it was asked first. What
is found here is copied into the partition's own journal by the batch that uses it.
"""

from collections.abc import Iterator, Mapping, Sequence
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

    def places(self, needed: Mapping[str, Needed]) -> dict[str, list[Place]]:
        """Return, for each of these partitions, the other journals that may have something of what it needs. The index
        is read once for all of them. Raises StoreError."""
        wanted = {partition: one.keys for partition, one in needed.items()}
        keys = pl.concat([hashed([]), *wanted.values()]).unique()
        if not keys.len():
            return {partition: [] for partition in needed}
        indexed = [(origin or self.store, coverage.index_of(self.store, origin).find(keys))
                   for origin in (None, *self.read_from)]  # fmt: skip
        unindexed = list(self._unindexed())
        return {
            partition: [place for place in _with_any(indexed, own, unindexed) if place != (self.store, partition)]
            for partition, own in wanted.items()
        }

    def collect(
        self, places: Sequence[Place], needed: Needed, folder: Path, *, requests: bool = True
    ) -> JournalJoin | None:
        """Collect the records of these rows, and the requests of their calls, from journals that may have some; None
        without any. Raises StoreError."""
        return collect(places, needed.hashes, folder, "elsewhere", requests=requests) if places else None

    def _unindexed(self) -> Iterator[Place]:
        """Yield the journals that have to be read directly. Not those that this command writes: its rows share their
        answers while they are at work (`stages.execution.equal_rows.single_flight`)."""
        for origin in (self.store, *self.read_from):
            for one in coverage.marked(origin):
                if origin is not self.store or one.command != COMMAND.name:
                    yield origin, one.partition


def _with_any(
    indexed: Sequence[tuple[Store, pl.DataFrame]], keys: pl.Series, unindexed: Sequence[Place]
) -> list[Place]:
    """Return the journals that have some of the keys, as far as is known: none for no keys."""
    if not keys.len():
        return []
    places: dict[Place, None] = {}
    for store, found in indexed:
        if not found.height:  # as for most partitions
            continue
        names = found.filter(pl.col("key").is_in(keys.implode()))["partition"].unique(maintain_order=True)
        places |= dict.fromkeys((store, name) for name in names)
    return list(places | dict.fromkeys(unindexed))
