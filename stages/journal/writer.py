"""Write the journal: paid answers are stored before they are used."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import orjson

from stages import observer
from stages.journal.known import Known
from stages.journal.records import CallKey, CallRecord, CommonRecord, Record, RequestRecord, RowRecord, encode_record
from stages.journal.requests import KeptRequests, RequestText
from stages.journal.segments import line_of, segment_of


class Spool(Protocol):
    """Lines kept on this machine from one flush to the next, so that a killed process loses only calls in flight."""

    def write(self, line: bytes) -> None: ...

    def replace(self, lines: Sequence[bytes]) -> None: ...

    def close(self, *, whole: bool) -> None:
        """Close the spool. `whole`: everything is in the store; otherwise the lines stay for a later attempt."""


class CallFinder(Protocol):
    """Calls in other journals."""

    def may_have(self, digests: Sequence[str]) -> bool:
        """Return False if surely none of these requests was ever answered. Must not wait."""

    async def find(self, keys: Sequence[CallKey]) -> list[CallRecord]: ...


class Journal:
    """Writes one batch attempt's records. Flushed `flush_s` after the first unflushed record, at `flush_records`, and
    `flush_bytes` of them, and by `flush()`; with `strict` each `append` returns only when its record is safe.
    `requests`: those of calls are kept, too. `finder` looks up calls that are not known here. `on_stored` is called
    with the rows whose records were stored.

    `put(data)` stores one segment under a new name, in a thread; it raises where the store fails, and the records stay
    in memory for the next flush, so nothing is lost if a store is unavailable for a while.
    """

    def __init__(
        self,
        put: Callable[[bytes], Awaitable[None]],
        *,
        known: Known,
        flush_s: float = 1.0,
        flush_records: int = 50,
        flush_bytes: int = 4_000_000,
        strict: bool = False,
        spool: Spool | None = None,
        requests: bool = True,
        finder: CallFinder | None = None,
        on_stored: Callable[[Sequence[RowRecord]], None] | None = None,
    ) -> None:
        self.known = known
        self.finder = finder
        self._kept = KeptRequests() if requests else None
        self._spool = spool
        self._sent: dict[str, bytes] = {}
        self._put = put
        self._flush_s = flush_s
        self._flush_records = flush_records
        self._flush_bytes = flush_bytes
        self._strict = strict
        self._unflushed: list[bytes] = []  # lines
        self._unflushed_bytes = 0
        self._on_stored = on_stored
        self._unflushed_rows: list[RowRecord] = []
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self.failed: BaseException | None = None

    async def append(self, record: Record) -> None:
        """Add a record; in `strict`, return when it is stored. If the store has failed and records pile up, wait for
        it, too: unstored calls would be paid for again. Raises what `put` raises."""
        self.note(record)
        full = len(self._unflushed) >= self._flush_records or self._unflushed_bytes >= self._flush_bytes
        if self._strict or (full and self.failed is not None):
            await self.flush()
        elif full:
            self._start_flush()
        elif self._timer is None:
            self._start_timer()

    def note(self, record: Record) -> None:
        """Add a record without waiting; the next flush stores it. Its time is set after any known void, whose clock may
        be ahead: otherwise it would be void, and paid for again and again."""
        voided = self.known.voided(record)
        if record.at <= voided:
            record = replace(record, at=math.nextafter(voided, math.inf))
        self.known.add(record)
        line = line_of(encode_record(record))
        self._unflushed.append(line)
        self._unflushed_bytes += len(line)
        if isinstance(record, CallRecord):
            self._sent.pop(record.nonce, None)
        elif isinstance(record, RowRecord):
            if self._on_stored is not None:
                self._unflushed_rows.append(record)
        elif isinstance(record, RequestRecord | CommonRecord) and self._kept is not None:
            self._kept.has(record)
        if self._spool is not None:
            self._spool.write(line)

    @property
    def keeps_requests(self) -> bool:
        return self._kept is not None

    def note_request(self, call: CallRecord, text: RequestText | None) -> None:
        """Add the request of a call, if requests are kept and it is not yet."""
        if self._kept is not None and text is not None:
            for record in self._kept.records_of(call, text):
                self.note(record)

    def sending(self, record: CallRecord) -> None:
        """Note in the spool that a request is about to be sent. `record` describes its unknown outcome; it counts
        unless an answer is noted, or `unbilled`."""
        if self._spool is not None:
            line = self._sent[record.nonce] = line_of(b'{"sent":' + encode_record(record) + b"}")
            self._spool.write(line)

    def unbilled(self, nonce: str) -> None:
        """Note that the request of this nonce failed, and was not billed."""
        if self._spool is not None and self._sent.pop(nonce, None) is not None:
            self._spool.write(line_of(orjson.dumps({"unbilled": nonce})))

    def _shrink_spool(self) -> None:
        """Reduce the spool to unflushed records and requests in flight: the others are in the store."""
        if self._spool is not None:
            self._spool.replace([*self._unflushed, *self._sent.values()])

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._start_flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_flush(self) -> None:
        self._stop_timer()
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        """Flush in the background: after a failure records stay for the next flush, and `close()` raises at the end."""
        try:
            await self.flush()
        except Exception as exc:  # noqa: BLE001  any store failure means the same: keep the records
            self.failed = exc
        finally:
            self._flusher = None
        self._rearm()

    def _rearm(self) -> None:
        if self._unflushed and self._timer is None and not self._closed:
            self._start_timer()

    async def flush(self) -> None:
        """Store all records added so far. Raises what `put` raises."""
        async with self._flushing:
            self._stop_timer()
            lines = self._unflushed
            if not lines:
                return
            rows = self._unflushed_rows
            self._unflushed, self._unflushed_bytes, self._unflushed_rows = [], 0, []
            if (seen := observer.current) is not None:
                seen.flush_began(self)
            try:
                await self._put(segment_of(lines))
                self.failed = None
                if self._on_stored is not None:
                    self._on_stored(rows)
                if (seen := observer.current) is not None:
                    seen.flush_ended(self)
                self._shrink_spool()
            except BaseException:
                self._unflushed = lines + self._unflushed
                self._unflushed_rows = rows + self._unflushed_rows
                self._unflushed_bytes += sum(map(len, lines))
                self._rearm()
                raise

    def discard(self) -> None:
        """End without writing what is unflushed."""
        self._closed = True
        self._stop_timer()

    async def close(self) -> None:
        """Wait for a background flush, then flush what is left."""
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait((self._flusher,))
        try:
            await self.flush()
        finally:
            self._stop_timer()
            if self._spool is not None:
                self._spool.close(whole=not self._unflushed)
                self._spool = None
