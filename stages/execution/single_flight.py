"""Equal rows once: rows with one fingerprint share one run of the graph, over all batches of a process."""

import asyncio
import itertools
import zlib
from dataclasses import dataclass, field

import orjson

from stages.journal.records import CallKey, CallRecord, RowKey, RowRecord

_RECENT_ROWS = 20_000
_FORGOTTEN_AT_ONCE = 1_000  # one by one, each would pass over the gaps that those before it left


def _short(key: RowKey) -> bytes:
    return bytes.fromhex(key[0][:16] + key[1])


@dataclass(eq=False)
class Shared:
    """What batches of one partition share within a process: rows and calls in flight, recent answers, and the calls of
    rows that are parked, which whoever goes on with an equal row will need. `claimed` are rows that batches at work
    here have to run, and other processes wait for."""

    rows: dict[RowKey, "asyncio.Future[RowRecord]"] = field(default_factory=dict)
    calls: dict[CallKey, "asyncio.Future[CallRecord]"] = field(default_factory=dict)
    recent: dict[bytes, bytes] = field(default_factory=dict)
    parked: dict[RowKey, list[CallRecord]] = field(default_factory=dict)
    claimed: set[RowKey] = field(default_factory=set)

    def remember(self, record: RowRecord) -> None:
        """Keep an answer for equal rows of later batches: packed, as a run may hold many of them, and without what its
        key and whoever takes it say."""
        said = (record.id, record.status, record.answer, record.error, record.calls, record.shared, record.cost_usd,
                record.mended)  # fmt: skip
        self.recent[_short(record.key)] = zlib.compress(orjson.dumps(said), 1)
        if len(self.recent) >= _RECENT_ROWS + _FORGOTTEN_AT_ONCE:
            for key in list(itertools.islice(self.recent, _FORGOTTEN_AT_ONCE)):
                del self.recent[key]

    def recalled(self, key: RowKey) -> RowRecord | None:
        """The answer of an equal row, as nobody's yet: `run` and `at` are its taker's."""
        found = self.recent.get(_short(key))
        if found is None:
            return None
        id, status, answer, error, calls, shared, cost_usd, mended = orjson.loads(zlib.decompress(found))
        asked = tuple((request, ordinal) for request, ordinal in calls)
        return RowRecord(*key, id, status, answer, error, asked, "", 0.0, shared, cost_usd, tuple(mended))
