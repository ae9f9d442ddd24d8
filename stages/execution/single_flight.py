"""Equal rows once: rows with one fingerprint share one run of the graph, over all batches of a process."""

import asyncio
import itertools
import zlib
from dataclasses import dataclass, field

import orjson

from stages.journal.records import CallKey, CallRecord, RowKey, RowRecord

_RECENT_ROWS = 20_000
_DROP_ROWS = 1_000  # one by one, each drop would scan the gaps of the drops before it


def _short_key(key: RowKey) -> bytes:
    return bytes.fromhex(key[0][:16] + key[1])


@dataclass(eq=False)
class Shared:
    """State that batches of one partition share within a process: rows and calls in flight, recent answers, and calls
    of pending rows, kept so that an identical row can resume from them. `claimed` are rows that batches in this process
    run, and other processes wait for."""

    rows: dict[RowKey, "asyncio.Future[RowRecord]"] = field(default_factory=dict)
    calls: dict[CallKey, "asyncio.Future[CallRecord]"] = field(default_factory=dict)
    recent: dict[bytes, bytes] = field(default_factory=dict)
    parked: dict[RowKey, list[CallRecord]] = field(default_factory=dict)
    claimed: set[RowKey] = field(default_factory=set)

    def remember(self, record: RowRecord) -> None:
        """Keep an answer for equal rows of later batches: packed, as a run may hold many, and without the key, run and
        time."""
        fields = (record.id, record.status, record.answer, record.error, record.calls, record.shared, record.cost_usd,
                record.mended)  # fmt: skip
        self.recent[_short_key(record.key)] = zlib.compress(orjson.dumps(fields), 1)
        if len(self.recent) >= _RECENT_ROWS + _DROP_ROWS:
            for key in list(itertools.islice(self.recent, _DROP_ROWS)):
                del self.recent[key]

    def recalled(self, key: RowKey) -> RowRecord | None:
        """Return the answer of an equal row; the caller sets `run` and `at`."""
        packed = self.recent.get(_short_key(key))
        if packed is None:
            return None
        id, status, answer, error, calls, shared, cost_usd, mended = orjson.loads(zlib.decompress(packed))
        call_keys = tuple((request, ordinal) for request, ordinal in calls)
        return RowRecord(*key, id, status, answer, error, call_keys, "", 0.0, shared, cost_usd, tuple(mended))
