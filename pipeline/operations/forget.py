"""Forget rows: remove them by key from everything that a sink holds, for 0 calls, and leave a receipt.

    look for them → note → reports and rejects of runs → partitions published anew → journals → what is derived or
    staged → look for them again → receipt

Each step removes what it finds, so the command that was killed, given again, finishes. What people read goes first:
the pages and the data; inputs that were split go last, as equal rows are recognised by their columns.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from pipeline.forgetting import equal_rows, journals, leftovers, note
from pipeline.forgetting.identities import ForgottenRow, Identities, forgotten_row
from pipeline.forgetting.journals import JournalSearch, Kept
from pipeline.forgetting.note import Note, Receipt
from pipeline.forgetting.parked_calls import remove_parked
from pipeline.forgetting.partitions import ids_of_rows, publish_without
from pipeline.forgetting.reach import not_reached
from pipeline.forgetting.run_folders import RunFolders, rewrite_in_place
from pipeline.forgetting.search import IN_PLACE, FoundRows, search_rows
from pipeline.outputs.garbage import open_runs
from pipeline.provider_jobs.provider_files import left_at_providers
from pipeline.publishing import cleanup
from pipeline.settings import expanded
from pipeline.sinks import commits
from pipeline.sinks.schema import load_dataset
from pipeline.stores import Store
from schemas.errors import StoreError, UsageError
from schemas.spec.sections import Spec


@dataclass(frozen=True)
class Forgetting:
    """Rows that are about to be forgotten, and where they are. `rows` were found; of `unknown` ones there is nothing in
    the sink. `earlier`: the note of a command that was killed, whose rows are finished as well."""

    spec: Spec
    base: Path
    store: Store
    rows: tuple[ForgottenRow, ...]
    unknown: tuple[str, ...]
    files: FoundRows
    records: JournalSearch
    earlier: Note | None

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers of rows and records to remove, by kind."""
        found = dict(self.files.counts) | ({"journal records": self.records.records} if self.records.records else {})
        before = self.earlier.found if self.earlier is not None else {}
        return {kind: max(found.get(kind, 0), before.get(kind, 0)) for kind in sorted(found.keys() | before.keys())}

    @property
    def partitions(self) -> list[str]:
        earlier = self.earlier.partitions if self.earlier is not None else ()
        return sorted({*self.files.partitions, *self.records.partitions, *earlier})

    @property
    def is_empty(self) -> bool:
        return not self.rows and self.earlier is None


@dataclass(frozen=True)
class Forgotten:
    """What was done: the receipt and its key. Whoever keeps the `salt` can show that a row is in the receipt."""

    receipt: Receipt
    key: str
    salt: str


def look_for(spec: Spec, base: Path, store: Store, texts: Sequence[str]) -> Forgetting:
    """Find everything that a sink has of these rows. Only what every command may do is done: abandoned publications are
    settled, and this machine's unflushed records stored. Raises UsageError if the source has no key, a run is open, or
    data files lack the key; StoreError."""
    spec = expanded(spec)
    key = spec.source.key
    if not key:
        raise UsageError(
            "source.key is absent: rows are forgotten by their key.",
            hint="Name the columns that identify a row in source.key, run once, and forget by their values.",
        )
    rows = [forgotten_row(text, key) for text in dict.fromkeys(texts)]
    load_dataset(store, spec.name)
    refuse_open_runs(store)
    earlier = note.read_note(store)
    if not rows and earlier is None:
        raise UsageError("No ROW was given.", hint="tandem forget ROW…, or --from FILE with a ROW on each line.")
    cleanup.sweep(store, dt.datetime.now(dt.UTC))  # abandoned publications are fenced, before files are listed
    leftovers.absorb_spools(store)
    identities = _identities(rows, earlier)
    files, records = search_rows(store, key, identities), journals.find(store, identities)
    _refuse_keyless(store, files, key)
    seen = files.ids | records.ids
    known = [row for row in rows if row.ids & seen or (earlier is not None and earlier.names(row))]
    unknown = tuple(row.text for row in rows if row not in known)
    return Forgetting(spec, base, store, tuple(known), unknown, files, records, earlier)


def _identities(rows: Sequence[ForgottenRow], earlier: Note | None) -> Identities:
    plain = frozenset(id for row in rows for id in row.ids)
    return earlier.identities(plain) if earlier is not None else Identities(plain)


def refuse_open_runs(store: Store) -> None:
    """Raise UsageError for a run that is not closed: it may be at work, or be resumed."""
    if runs := sorted(open_runs(store).runs):
        raise UsageError(
            f"{store.uri}: the run {runs[0]!r} is not closed, and may hold the rows.",
            hint=f"Finish it with: tandem runs resume {runs[0]}, or end it: tandem runs cancel {runs[0]}",
        )


def _refuse_keyless(store: Store, files: FoundRows, key: Sequence[str]) -> None:
    """Raise UsageError where a partition has the rows and its data files cannot tell which they are."""
    indexed = {file.partition: file.key for file in files.files if file.kind == "index"}
    for partition, keyless in files.keyless.items():
        current = commits.current(store, partition)
        index = current.index.key if current is not None and current.index is not None else ""
        present = {file.key for file in current.files} if current is not None else set()
        if present & set(keyless) and index in indexed.values():
            raise UsageError(
                f"{partition}: the published columns do not have {', '.join(key)}, so its rows cannot be told apart.",
                hint="Remove the rows from the source, publish with tandem run, and forget them then.",
            )


# The steps ---------------------------------------------------------------------------------------------------------


def forget(found: Forgetting) -> Forgotten:
    """Remove the rows everywhere. Raises CommitConflict, StoreError; a repeated command goes on from there."""
    started = dt.datetime.now(dt.UTC)
    begun = note.new_note(found.rows, started, found.earlier).model_copy(
        update={
            "partitions": tuple(found.partitions),
            "journals": tuple(sorted({*found.records.partitions, *(found.earlier.journals if found.earlier else ())})),
            "found": found.counts,
            "kept_answers": found.earlier.kept_answers if found.earlier is not None else 0,
        }
    )
    note.write_note(found.store, begun)
    cleanup.catch_up(found.store, found.spec, found.base)  # else a table still sends its readers to earlier files
    identities = _identities(found.rows, begun)
    _remove_from_files(found, identities, begun.partitions)
    begun = _remove_from_journals(found, identities, begun)
    leftovers.remove_staged(found.store)
    leftovers.rebuild_index(found.store, begun.journals)
    leftovers.remove_snapshots(found.store, found.files.snapshots)
    _refuse_left(found, identities)
    receipt = Receipt(
        pipeline=found.spec.name,
        started_at=begun.started_at,
        finished_at=dt.datetime.now(dt.UTC),
        rows=begun.rows,
        removed=begun.found,
        partitions=begun.partitions,
        kept_answers=begun.kept_answers,
        not_reached=tuple(not_reached(found.spec, found.files, found.records, left_at_providers(found.store))),
    )
    return Forgotten(receipt, note.finish(found.store, begun, receipt), begun.salt)


def _remove_from_files(found: Forgetting, identities: Identities, partitions: Sequence[str]) -> None:
    store, spec = found.store, found.spec
    remove_parked(store, identities)
    RunFolders(store, identities, spec.source.key, partitions).remove(dt.datetime.now(dt.UTC))
    named = {file.key: file for file in found.files.files}
    for partition in sorted(found.files.partitions):
        publish_without(spec, found.base, store, partition, identities, named)
    for file in found.files.files:
        if file.kind in IN_PLACE:
            rewrite_in_place(store, file, identities)


def _remove_from_journals(found: Forgetting, identities: Identities, begun: Note) -> Note:
    """Rewrite the journals. Returns the note with the number of answers that are kept."""
    store, records = found.store, found.records
    stays = lru_cache(maxsize=1)(partial(ids_of_rows, store))
    kept: Kept = journals.keep(store, identities, records, stays)
    equal_rows.add_needed(found.spec, found.base, store, identities, records, kept)
    begun = begun.model_copy(update={"kept_answers": max(begun.kept_answers, kept.answers)})
    note.write_note(store, begun)
    journals.rewrite(store, identities, records, kept, stays)
    return begun


def _refuse_left(found: Forgetting, identities: Identities) -> None:
    """Look for the rows again: another process may have written some. Raises StoreError."""
    files = search_rows(found.store, found.spec.source.key, identities)
    records = journals.find(found.store, identities)
    left = [*(file.key for file in files.files), *records.objects]
    if left:
        raise StoreError(
            f"{found.store.uri}/{left[0]} still has rows to forget: another process writes to the sink, or holds it.",
            hint="End it, and give the command again.",
        )
