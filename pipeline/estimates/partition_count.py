"""The calls that one partition's rows need, counted with the answers that are known.

    prepare         compare the rows with those of the generation, and join the ones that are left with the own journal
    rows_to_call    join them with other journals, and follow them through the stages

Between the two, the index of answers is asked for many partitions at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.enrichment.join_rows import RowKeys
from pipeline.enrichment.selection import RowSelection, of_selected
from pipeline.estimates.followed_batch import CallProbe, CountedRows, FollowedBatch
from pipeline.estimates.row_changes import row_changes
from pipeline.journal import compacted, segments
from pipeline.journal.answers.elsewhere import Needed, OtherJournals
from pipeline.journal.join import JournalJoin, Place, collect, has_journal, hashed
from pipeline.journal.known_file import records_of
from pipeline.journal.spool import Spools
from pipeline.planning import batches
from pipeline.planning.batches import equal_batches
from pipeline.planning.job import Job
from pipeline.progress_note import Note
from pipeline.settings import current
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from pipeline.stores.local import LocalStore
from schemas.plan import Decision, RowChanges
from schemas.staging import PlannedBatch, StagedFile
from stages.contract import graph_stages
from stages.execution.row_prints import row_prints
from stages.execution.unsettled import is_shareable
from stages.journal.fingerprints import row_ids
from stages.journal.known import Known
from stages.journal.records import Record


@dataclass
class Reading:
    """What a count reads: the job's rows, and with the journals of its sink `others`, unless it starts `fresh`."""

    job: Job
    store: Store
    others: OtherJournals
    probe: CallProbe
    fresh: bool
    note: Note

    @cached_property
    def has_other_answers(self) -> bool:
        return not self.fresh and self.others.may_have_answers()


@dataclass(frozen=True)
class _OwnKeys:
    """The keys in a partition's own journal, hashed: all of them, and the row fingerprints with an outcome."""

    all: pl.Series
    answered: pl.Series

    @classmethod
    def read(cls, store: Store, partition: str, stage: str) -> "_OwnKeys | None":
        """Read the journal without its answers; None if it voids any."""
        keys, answered = [hashed([])], [hashed([])]
        for chunk in compacted.everything(store, partition, ["kind", "stage", "id", "key"], segments.Reading()):
            if chunk["kind"].eq("void").any():
                return None
            own = hashed(chunk["key"])
            keys += [hashed(chunk["id"]), own]
            answered.append(own.filter((chunk["kind"] == "row") & (chunk["stage"] == stage)))
        return cls(pl.concat(keys), pl.concat(answered))


class PartitionCount:
    """One partition. `folder`: for its files, absent yet."""

    def __init__(self, reading: Reading, decision: Decision, entry: Entry, folder: Path) -> None:
        self.job, self.entry = reading.job, entry
        self.partition = entry.partition
        self.needed = Needed(hashed([]), [])
        self._reading = reading
        self._decision = decision
        self._folder = folder
        self._own: JournalJoin | None = None
        self._own_keys: _OwnKeys | None = None
        self._masks: dict[int, pl.Series] = {}  # of each batch, the rows that are left
        self._keys: dict[int, RowKeys] = {}  # of each batch that has such rows
        self.rows = min(decision.rows, entry.rows)
        size = batches.batch_rows(self.rows, self.job.spec.limits.batch_rows)
        self.batches = equal_batches(entry, size, decision.rows)

    def prepare(self) -> RowChanges:
        """Find what the partition's own journal lacks, `needed`. Returns how its rows differ from those of its current
        generation. Raises InputChanged, StoreError."""
        changes = self._changes()
        if self._decision.run:
            self._folder.mkdir()
            self._answer_by_own_journal()
        return changes

    def rows_to_call(self, places: Sequence[Place]) -> list[CountedRows]:
        """Count, for each graph stage, the rows that need a call. `places`: other journals that have something of what
        is needed. Raises InputChanged, StoreError."""
        counts = [CountedRows() for _ in graph_stages(self.job.stages)]
        if not self._decision.run:
            return []
        known = self._known(places)
        for number, batch in enumerate(self.batches):
            if self._has_left(number):
                known_here = Known(known.of_batch(number))
                FollowedBatch(self.job, self._left(number, batch), known_here, self._reading.probe).through(counts)
            self._reading.note(batch.rows)
        return counts

    def _changes(self) -> RowChanges:
        rows, index = self._decision.rows, self._decision.index
        if index is None:
            return RowChanges(new=rows)
        if not self._decision.rows_may_differ:
            return RowChanges(unchanged=rows)
        return row_changes(self.job, self._reading.store, self.entry, self.rows, index, self._reading.note)

    def _answer_by_own_journal(self) -> None:
        reading = self._reading
        if self._has_journal:
            self._own_keys = self._read_own_keys()
        self._select(self._folder / "selected")
        if not (self._has_journal or reading.has_other_answers):
            return
        for number, batch in enumerate(self.batches):
            left = self._left(number, batch)
            if left.height:
                self._keys[number] = RowKeys.of(self.job, left)
        if not self._keys:
            return
        rows = self._row_keys
        if self._has_journal and self._may_be_in_own_journal(rows):
            self._own = collect([(reading.store, self.partition)], pl.concat(rows.all), self._folder)
        self.needed = rows.needed(self._own)

    @cached_property
    def _has_journal(self) -> bool:
        return not self._reading.fresh and has_journal(self._reading.store, self.partition)

    def _read_own_keys(self) -> _OwnKeys | None:
        """Read which rows need no call, where their fingerprint alone shows it."""
        stages = graph_stages(self.job.stages)
        if len(stages) > 1 or self.job.stages[0] is not stages[0] or stages[0].calls != (1, 1):
            return None
        return _OwnKeys.read(self._reading.store, self.partition, stages[0].fingerprint)

    def _may_be_in_own_journal(self, rows: RowKeys) -> bool:
        return self._own_keys is None or any(keys.is_in(self._own_keys.all.implode()).any() for keys in rows.all)

    def _select(self, folder: Path) -> None:
        """Leave out the rows that no stage with a model will see, if there are many."""
        folder.mkdir()
        selection = RowSelection.of(self.job, self.entry, self.rows, folder, self._reading.note)
        found = selection.copy() if selection is not None else None
        if found is None:
            return
        copies = [StagedFile(key=path.name, sha256="", size=0, rows=rows) for path, rows in found.files]
        job = replace(self.job, snapshot=replace(self.job.snapshot, store=LocalStore(folder)))
        self.job = of_selected(job, self.entry.partition, copies)
        self.entry = self.job.snapshot.entry(self.entry.partition)
        self.batches = equal_batches(self.entry, batches.batch_rows(found.rows, None), found.rows)

    def _has_left(self, number: int) -> bool:
        return number not in self._masks or self._masks[number].any()

    def _left(self, number: int, batch: PlannedBatch) -> pl.DataFrame:
        """Return the rows of a batch that have to be followed."""
        rows = self.job.snapshot.read(self.entry.partition, batch.ranges)
        if self._own_keys is None:
            return rows
        if number not in self._masks:  # of a batch that is read for the first time
            first = graph_stages(self.job.stages)[0]
            prints = hashed(row_prints(first, rows, row_ids(rows, self.job.spec.source.key)))
            self._masks[number] = ~prints.is_in(self._own_keys.answered.implode())
        return rows.filter(self._masks[number])

    @cached_property
    def _row_keys(self) -> RowKeys:
        """Return the keys of the rows of all batches."""
        keys = self._keys.values()
        prints = zip(*(one.prints for one in keys), strict=True)
        return RowKeys(pl.concat(one.ids for one in keys), [pl.concat(some) for some in prints], self.job)

    def _known(self, places: Sequence[Place]) -> "_KnownRecords":
        """Find the records of the rows that are followed, by batch, joined as `open` does."""
        reading = self._reading
        if reading.fresh or not self.batches:
            return _KnownRecords()
        # Few: what was answered in the last second of a process that was killed on this machine. Its next run has them.
        spooled = Spools(current().spool_folder).records_of_the_dead(reading.store.uri, self.partition)
        if not self._keys:
            return _KnownRecords(spooled)
        other = reading.others.collect(places, self.needed, self._folder, requests=False)
        sizes = [len(one.ids) for one in self._keys.values()]
        batch = pl.Series("batch", np.repeat(list(self._keys), sizes), dtype=pl.Int64)
        wanted = pl.concat(pl.DataFrame([batch, key.alias("key")]) for key in self._row_keys.all)
        wanted = wanted.with_columns(calls=True)
        own = self._own.by_batch(wanted, self._folder, "known") if self._own is not None else {}
        elsewhere = other.by_batch(wanted, self._folder, "elsewhere") if other is not None else {}
        return _KnownRecords(spooled, own, elsewhere)


@dataclass(frozen=True)
class _KnownRecords:
    """The records that rows may use, those of batches in files: one batch's are read at a time."""

    spooled: Sequence[Record] = ()
    own: Mapping[int, Path] = field(default_factory=dict)
    elsewhere: Mapping[int, Path] = field(default_factory=dict)

    def of_batch(self, number: int) -> list[Record]:
        found = list(self.spooled)
        if number in self.own:
            found += records_of(self.own[number].read_bytes())
        if number in self.elsewhere:
            found += filter(is_shareable, records_of(self.elsewhere[number].read_bytes()))
        return found
