"""The answers of a run so far, for equal rows that come later: the latest in memory, the others in a local file.

Packed, and without the key, run and time: a run may have millions of different rows.
"""

import itertools
import sqlite3
from dataclasses import dataclass, field

import orjson
import pyarrow as pa

from stages.journal.records import RowKey, RowRecord

_IN_MEMORY = 20_000
_MOVED = 1_000  # at once
_CODEC = pa.Codec("lz4_raw")  # takes a tenth of the time of zlib

_Packed = tuple[int, bytes]  # its bytes as they are, and compressed


@dataclass(eq=False)
class RecentAnswers:
    """Answers by row."""

    _latest: dict[bytes, _Packed] = field(default_factory=dict)
    _earlier: sqlite3.Connection | None = None

    def remember(self, record: RowRecord) -> None:
        fields = (record.id, record.status, record.answer, record.error, record.calls, record.shared, record.cost_usd,
                record.mended, record.by)  # fmt: skip
        data = orjson.dumps(fields)
        self._latest[_short_key(record.key)] = len(data), _CODEC.compress(data, asbytes=True)
        if len(self._latest) >= _IN_MEMORY + _MOVED:
            self._move()

    def recalled(self, key: RowKey) -> RowRecord | None:
        """Return the answer of an equal row; the caller sets `run` and `at`."""
        packed = self._latest.get(_short_key(key)) or self._find(_short_key(key))
        if packed is None:
            return None
        id, status, answer, error, calls, shared, cost_usd, mended, by = orjson.loads(
            _CODEC.decompress(packed[1], packed[0], asbytes=True)
        )
        call_keys = tuple((request, ordinal) for request, ordinal in calls)
        return RowRecord(*key, id, status, answer, error, call_keys, "", 0.0, shared, cost_usd, tuple(mended), by)

    def _find(self, key: bytes) -> _Packed | None:
        if self._earlier is None:
            return None
        found = self._earlier.execute("SELECT size, answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else (int(found[0]), bytes(found[1]))

    def _move(self) -> None:
        """Move the oldest answers to the file, which SQLite removes when it is closed."""
        if self._earlier is None:
            self._earlier = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._earlier.execute("PRAGMA synchronous = OFF")
            self._earlier.execute("PRAGMA journal_mode = OFF")
            self._earlier.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, size INT, answer BLOB) WITHOUT ROWID")
        oldest = [(key, *packed) for key, packed in itertools.islice(self._latest.items(), _MOVED)]
        self._earlier.execute("BEGIN")
        self._earlier.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", oldest)
        self._earlier.execute("COMMIT")
        for key, *_ in oldest:  # at once: one by one, each removal would scan the gaps of those before it
            del self._latest[key]


def _short_key(key: RowKey) -> bytes:
    return bytes.fromhex(key[0][:16] + key[1])
