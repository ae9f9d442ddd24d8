"""The records of all journals, without those of rows that are forgotten.

    find       read every journal once: the rows' records, the answers that they led to, the calls that they made
    keep       read them again: which of those answers and calls the records of other rows use
    rewrite    write the objects that have any of them without the rest; a record that is kept gets the name of the row
               that needs it

A record with an equal content that belongs to no row of the dataset any more, or of another partition's journal, goes
too: otherwise the next run would carry it over to the row, if that comes back.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.forgetting.identities import Identities
from pipeline.journal import record_frames
from pipeline.journal.compacted import Footer
from pipeline.journal.record_frames import CHUNK, COMMON, REQUEST
from pipeline.progress_note import Note, unnoted
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas import digests, ids
from schemas.errors import ObjectMissing
from stages.journal.segments import UnknownFormat, intact_bodies, line_of, segment_of

_BY_REQUEST = ("call", REQUEST)  # kinds of record that belong to a request, not to a row of a stage
_OUTCOMES = ("row", "pending")
Answer = tuple[str, str]  # stage fingerprint, row fingerprint
Unnamed = Mapping[str, set[Answer]]  # by partition


@dataclass
class JournalSearch:
    """What the journals have of the rows. `answers`: those of the rows' records, with the partitions whose journal has
    them under the rows' name; `calls`: the requests that led to each. `requests`: those of all their calls. `records`:
    their number. `commons`: what each of these requests has in common with others. `objects`: those to rewrite, with
    their partition, those of other rows' records first. `unreadable`: objects of another version, or damaged."""

    answers: dict[Answer, set[str]] = field(default_factory=lambda: defaultdict(set))
    calls: dict[Answer, set[str]] = field(default_factory=lambda: defaultdict(set))
    requests: set[str] = field(default_factory=set)
    commons: dict[str, str] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    records: int = 0
    objects: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def partitions(self) -> set[str]:
        return set(self.objects.values())


@dataclass
class Kept:
    """What stays. `needed`: an answer that is recorded only under a forgotten row's name, by partition, with the row
    that needs it. `calls`: requests, each with a row that needs it. `others`: answers recorded under other names.
    `dropped`: what only removed requests had in common."""

    needed: dict[tuple[str, Answer], str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    others: dict[str, set[Answer]] = field(default_factory=lambda: defaultdict(set))
    dropped: frozenset[str] = frozenset()

    def need(self, partition: str, answer: Answer, name: str, found: "JournalSearch") -> None:
        """Keep an answer for a row, and the calls that led to it."""
        self.needed.setdefault((partition, answer), name)
        self.calls |= dict.fromkeys(found.calls[answer] - self.calls.keys(), name)

    @property
    def answers(self) -> int:
        return len(self.needed.keys() | {(partition, one) for partition, found in self.others.items() for one in found})


Stays = Callable[[str], frozenset[str] | None]  # partition → identities of its rows; None: it is not published


def find(store: Store, rows: Identities, note: Note = unnoted) -> JournalSearch:
    """Read every journal for records of the rows. Raises StoreError."""
    found = JournalSearch()
    for key, partition in _objects(store):
        for frame in _frames(store, key, found.unreadable):
            note(0)
            mine = frame.filter(rows.mask(frame["id"]))
            if not mine.height:
                continue
            found.objects[key] = partition
            found.records += mine.height
            found.ids.update(mine["id"])
            for kind, request, stage, body in mine.select("kind", "key", "stage", "body").iter_rows():
                if kind in _BY_REQUEST:
                    found.requests.add(request)
                    if kind == REQUEST:
                        found.commons[request] = stage
                else:
                    found.answers[stage, request].add(partition)
                    found.calls[stage, request] |= _calls(body)
                    found.requests |= found.calls[stage, request]
    return found


def keep(store: Store, rows: Identities, found: JournalSearch, stays: Stays, note: Note = unnoted) -> Kept:
    """Read the journals again for what records of other rows need, and for objects that have more to remove. Raises
    StoreError."""
    kept = Kept()
    if not found.records:
        return kept
    more: dict[str, str] = {}
    commons = _Commons()
    requests = sorted(found.requests)
    for key, partition in _objects(store):
        for frame in _frames(store, key, []):
            note(0)
            others = frame.filter(~rows.mask(frame["id"]))
            for kind, row, name, stage in others.select("kind", "key", "id", "stage").iter_rows():
                if kind == COMMON:
                    commons.objects[row].append((key, partition))
                elif kind in _BY_REQUEST:
                    if row in found.requests:
                        more[key] = partition
                    if kind == REQUEST:
                        (found.commons if row in found.requests else commons.of_others)[row] = stage
                elif (stage, row) not in found.answers:
                    continue
                elif not _is_there(stays(partition), name):
                    more[key] = partition
                elif kind in _OUTCOMES:
                    kept.others[partition].add((stage, row))
            if requests:
                _note_calls(others, requests, found, partial(stays, partition), kept)
    kept.dropped = commons.dropped(found, kept)
    more |= {key: partition for common in kept.dropped for key, partition in commons.objects[common]}
    found.objects = {**{key: more[key] for key in more if key not in found.objects}, **found.objects}
    return kept


@dataclass
class _Commons:
    """What requests have in common: of those that stay, and the objects that have each."""

    of_others: dict[str, str] = field(default_factory=dict)
    objects: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def dropped(self, found: JournalSearch, kept: Kept) -> frozenset[str]:
        """Return those that no request needs any more: a system text may hold a row's values, too."""
        stay = {found.commons[request] for request in kept.calls if request in found.commons}
        return frozenset(found.commons.values()) - stay - set(self.of_others.values())


def _note_calls(
    others: pl.DataFrame,
    requests: list[str],
    found: JournalSearch,
    present: Callable[[], frozenset[str] | None],
    kept: Kept,
) -> None:
    """Note the rows that need the calls of forgotten ones."""
    by_row = others.filter(~pl.col("kind").is_in((*_BY_REQUEST, COMMON)))
    named = by_row.filter(pl.col("body").cast(pl.String, strict=False).str.contains_any(requests))
    for name, stage, row, body in named.select("id", "stage", "key", "body").iter_rows():
        if (stage, row) in found.answers and not _is_there(present(), name):
            continue
        kept.calls |= dict.fromkeys(_calls(body) & found.requests, name)


def _is_there(present: frozenset[str] | None, name: str) -> bool:
    return present is None or name in present


def unnamed(found: JournalSearch, kept: Kept) -> Unnamed:
    """Return the answers, by partition, that are recorded there under no other name."""
    out: dict[str, set[Answer]] = defaultdict(set)
    for answer, partitions in found.answers.items():
        for partition in partitions:
            if answer not in kept.others[partition]:
                out[partition].add(answer)
    return out


# Rewriting ---------------------------------------------------------------------------------------------------------


def rewrite(
    store: Store, rows: Identities, found: JournalSearch, kept: Kept, stays: Stays, note: Note = unnoted
) -> None:
    """Write the objects that have any such record without them, then delete the former ones. Raises StoreError."""
    for key, partition in found.objects.items():
        note(0)
        change = _Change(partition, rows, found, kept, stays)
        if key.endswith(".parquet"):
            _rewrite_compacted(store, key, partition, change)
        else:
            _rewrite_segment(store, key, change)


@dataclass(frozen=True)
class _Change:
    """The change to records of one partition's journal."""

    partition: str
    rows: Identities
    found: JournalSearch
    kept: Kept
    stays: Stays

    def of(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the records that stay, some under another name."""
        mine = self.rows.mask(frame["id"]).to_list()
        names: list[str | None] = []
        columns = frame.select("kind", "key", "id", "stage").iter_rows()
        for (kind, key, name, stage), forgotten in zip(columns, mine, strict=True):
            if kind == COMMON:
                names.append(None if key in self.kept.dropped else name)
            elif kind in _BY_REQUEST:
                names.append(self._call(key, name, forgotten))
            else:
                names.append(self._row((stage, key), name, forgotten))
        named = frame.with_columns(pl.Series("new", names, dtype=pl.String)).filter(pl.col("new").is_not_null())
        bodies = [
            body if new == old else _renamed(body, new)
            for old, new, body in named.select("id", "new", "body").iter_rows()
        ]
        return named.with_columns(pl.Series("body", bodies, dtype=pl.Binary), id=pl.col("new")).drop("new")

    def _call(self, request: str, name: str, forgotten: bool) -> str | None:
        if not forgotten and request not in self.found.requests:
            return name
        needs = self.kept.calls.get(request)
        return needs if forgotten or needs is None else name

    def _row(self, answer: Answer, name: str, forgotten: bool) -> str | None:
        if forgotten:
            return self.kept.needed.get((self.partition, answer))
        return name if answer not in self.found.answers or _is_there(self.stays(self.partition), name) else None


def _renamed(body: bytes, name: str) -> bytes:
    return orjson.dumps({**orjson.loads(body), "id": name})


def _rewrite_segment(store: Store, key: str, change: _Change) -> None:
    """Replace a segment in place, in one put: its name may be in the footer of a compacted object."""
    try:
        bodies, _ = intact_bodies(store.get(key))
    except ObjectMissing:
        return
    kept = change.of(record_frames.of_bodies(bodies))
    if not kept.height:
        store.delete([key])
        return
    store.put(key, segment_of(map(line_of, kept["body"].to_list())))


def _rewrite_compacted(store: Store, key: str, partition: str, change: _Change) -> None:
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        path = Path(folder) / "compact.parquet"
        try:
            with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
                schema = parquet.schema_arrow
                with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                    for batch in batches_of(parquet, CHUNK):
                        kept = change.of(pl.DataFrame(pa.Table.from_batches([batch])))
                        table = kept.select(schema.names).to_arrow().cast(schema.remove_metadata())
                        writer.write_table(table.replace_schema_metadata(schema.metadata))
        except ObjectMissing:
            return
        new = ids.journal_compact(partition, digests.file_sha256(path))
        store.upload(new, path)
        if new != key:
            store.delete([key])


# Reading -----------------------------------------------------------------------------------------------------------


def _objects(store: Store) -> list[tuple[str, str]]:
    """List the objects of all journals, with their partition."""
    return [
        (info.key, ids.partition_of_journal(info.key))
        for info in store.list(ids.JOURNAL)
        if info.key.endswith((".parquet", ".jsonl"))
    ]


def _frames(store: Store, key: str, unreadable: list[str]) -> Iterator[pl.DataFrame]:
    """Yield the records of an object in the compacted form, some at a time."""
    try:
        if key.endswith(".jsonl"):
            yield from record_frames.chunked([intact_bodies(store.get(key))[0]])
            return
        with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
            Footer.of(key, parquet.schema_arrow)
            for batch in batches_of(parquet, CHUNK):
                yield pl.DataFrame(pa.Table.from_batches([batch]))
    except ObjectMissing:
        return
    except (UnknownFormat, OSError, pa.ArrowException):
        unreadable.append(key)


def _calls(body: bytes) -> set[str]:
    """Return the requests that a row's record names."""
    return {request for request, _ in orjson.loads(body).get("calls", ())}
