"""Single calls in the journals of a dataset, by request digest: for a request that a row asks under another name, or in
another stage, than the row that asked it first.

Whether there may be one is answered by the filters of the index, in memory. Where one may be, the calls of the journal
that it leads to are read once, into a local file of this process.
"""

import asyncio
import sqlite3
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import orjson
import polars as pl

from pipeline.journal import answer_keys, compacted
from pipeline.journal.answers import coverage
from pipeline.journal.answers.elsewhere import OtherJournals
from pipeline.journal.answers.index_files import IndexFile
from pipeline.journal.join import Place
from pipeline.journal.segments import Reading
from pipeline.process_state import STATE
from pipeline.stores import Store
from schemas.errors import Damaged, ObjectMissing
from stages.journal.records import CallKey, CallRecord, record_of

_COLUMNS = ("kind", "key", "body")
_LISTINGS = 3  # a reader lists again if a listed object is gone


@dataclass(eq=False)
class CallFinder:
    """The calls of all journals that the index had when a batch began."""

    others: OtherJournals
    _files: list[tuple[Store, IndexFile]] = field(default_factory=list)

    @classmethod
    def of(cls, others: OtherJournals) -> "CallFinder | None":
        """Return a finder; None if no journal has any answer. Raises StoreError."""
        files = _files_of(others)
        return cls(others, files) if files else None

    def may_have(self, digests: Sequence[str]) -> bool:
        """Return False if surely no journal has a call of one of these requests. Reads nothing."""
        keys = [answer_keys.of_digest(digest) for digest in digests]
        return any(file.filters.may_have_one(key) for _, file in self._files for key in keys)

    async def find(self, keys: Sequence[CallKey]) -> list[CallRecord]:
        """Return those of these calls that a journal has, not voided there. Raises StoreError."""
        return await asyncio.to_thread(self._find, keys)

    def _find(self, keys: Sequence[CallKey]) -> list[CallRecord]:
        for _ in range(_LISTINGS - 1):
            try:
                return self._look(keys)
            except (ObjectMissing, FileNotFoundError, Damaged):
                self._files = _files_of(self.others)  # some were merged meanwhile
        return self._look(keys)

    def _look(self, keys: Sequence[CallKey]) -> list[CallRecord]:
        digests = pl.Series([digest for digest, _ in keys], dtype=pl.String)
        wanted = np.unique(answer_keys.of_digests(digests).drop_nulls().to_numpy())
        places: dict[Place, str] = {}
        for origin, file in self._files:
            if (found := file.find(wanted)) is not None:
                places |= {
                    (origin, partition): file.key for partition in found["partition"].unique(maintain_order=True)
                }
        answers: dict[CallKey, CallRecord] = {}
        for place, file_key in places.items():
            # By the file that leads there: a later one has what the journal has got since.
            calls: _Calls = STATE.calls.get((place[0].uri, place[1], file_key), partial(_Calls.read, *place))
            answers = {record.key: record for key in keys if (record := calls.find(key)) is not None} | answers
        return list(answers.values())


def _files_of(others: OtherJournals) -> list[tuple[Store, IndexFile]]:
    """Return the files of all indexes as they are now, each with the store of its journals."""
    return [
        (origin or others.store, file)
        for origin in (None, *others.read_from)
        for file in coverage.index_of(others.store, origin).files()
    ]


class _Calls:
    """The calls of one journal, in a local file, which SQLite removes when it is closed."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE calls (request TEXT, ordinal INTEGER, at REAL, body BLOB)")

    @classmethod
    def read(cls, store: Store, partition: str) -> "_Calls":
        """Read a journal's calls. Raises StoreError."""
        for _ in range(_LISTINGS):
            reading = Reading()
            calls = cls._read(store, partition, reading)
            if not reading.gone:  # else they were merged into an object that was not listed yet
                break
        return calls

    @classmethod
    def _read(cls, store: Store, partition: str, reading: Reading) -> "_Calls":
        calls = cls()
        voided: dict[CallKey, float] = {}
        for chunk in compacted.everything(store, partition, _COLUMNS, reading):
            for body in chunk.filter(pl.col("kind") == "void")["body"]:
                void = orjson.loads(body)
                for request, ordinal in void["calls"]:
                    voided[request, ordinal] = max(void["at"], voided.get((request, ordinal), 0.0))
            rows = []
            for request, body in chunk.filter(pl.col("kind") == "call").select("key", "body").iter_rows():
                record = record_of(body)
                if isinstance(record, CallRecord) and record.raw is not None:
                    rows.append((request, record.ordinal, record.at, zlib.compress(body, 1)))
            calls._file.execute("BEGIN")
            calls._file.executemany("INSERT INTO calls VALUES (?, ?, ?, ?)", rows)
            calls._file.execute("COMMIT")
        calls._file.executemany(
            "DELETE FROM calls WHERE request = ? AND ordinal = ? AND at <= ?",
            [(*key, at) for key, at in voided.items()],
        )
        calls._file.execute("CREATE INDEX by_request ON calls (request)")
        return calls

    def find(self, key: CallKey) -> CallRecord | None:
        """Return the first answer of a call."""
        with self._lock:
            query = "SELECT body FROM calls WHERE request = ? AND ordinal = ? ORDER BY at LIMIT 1"
            found = self._file.execute(query, key).fetchone()
        record = None if found is None else record_of(zlib.decompress(found[0]))
        return record if isinstance(record, CallRecord) else None
