"""The journal's writer: what has been answered, and paid for, is stored before it is used (design: the journal)."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import orjson

from stages.journal.known import Known
from stages.journal.records import CallRecord, Record, encode_record
from stages.journal.segments import encode_segment, line_of


class Spool(Protocol):
    """Lines kept on this machine from one flush to the next, so that a killed process loses only calls in flight."""

    def write(self, line: bytes) -> None: ...

    def replace(self, lines: Sequence[bytes]) -> None: ...

    def close(self, *, whole: bool) -> None:
        """`whole`: everything is in the store. Otherwise it is left to a later attempt."""


class Journal:
    """Writes one batch attempt's records. Flushed `flush_s` after the first unflushed record, at `flush_records`, and
    by `flush()`; with `strict` each `append` returns only when its record is safe.

    `put(data)` stores one segment under a new name, in a thread; it raises where the store fails, and the records stay
    in memory for the next flush, so nothing is lost by a store that is away for a while.
    """

    def __init__(
        self,
        put: Callable[[bytes], Awaitable[None]],
        *,
        known: Known,
        flush_s: float = 1.0,
        flush_records: int = 50,
        strict: bool = False,
        spool: Spool | None = None,
    ) -> None:
        self.known = known
        self._spool = spool
        self._sent: dict[str, bytes] = {}
        self._put = put
        self._flush_s = flush_s
        self._flush_records = flush_records
        self._strict = strict
        self._unflushed: list[Record] = []
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self.failed: BaseException | None = None

    async def append(self, record: Record) -> None:
        """Take a record; in `strict`, return when it is stored. Where the store has failed and records pile up, wait
        for it too: what is not stored would be paid for again. Raises what `put` raises."""
        self.note(record)
        full = len(self._unflushed) >= self._flush_records
        if self._strict or (full and self.failed is not None):
            await self.flush()
        elif full:
            self._start_flush()
        elif self._timer is None:
            self._start_timer()

    def note(self, record: Record) -> None:
        """Take a record without waiting for anything; the next flush stores it. It comes after what is known to be
        voided, whatever the clock of who voided it said: it would be paid for again and again."""
        voided = self.known.voided(record)
        if record.at <= voided:
            record = replace(record, at=math.nextafter(voided, math.inf))
        self.known.add(record)
        self._unflushed.append(record)
        if isinstance(record, CallRecord):
            self._sent.pop(record.nonce, None)
        if self._spool is not None:
            self._spool.write(line_of(encode_record(record)))

    def sending(self, record: CallRecord) -> None:
        """A request is about to go out. Unless its answer is noted, or that it was not billed, its outcome is unknown:
        `record` then says so."""
        if self._spool is not None:
            line = self._sent[record.nonce] = line_of(b'{"sent":' + encode_record(record) + b"}")
            self._spool.write(line)

    def unbilled(self, nonce: str) -> None:
        """The request of this nonce failed, and was not paid for."""
        if self._spool is not None and self._sent.pop(nonce, None) is not None:
            self._spool.write(line_of(orjson.dumps({"unbilled": nonce})))

    def _stored(self) -> None:
        """What was flushed is in the store: the spool needs to keep only what came since, and what is in flight."""
        if self._spool is not None:
            lines = [line_of(encode_record(record)) for record in self._unflushed]
            self._spool.replace([*lines, *self._sent.values()])

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
        """A background flush: what fails is kept for the next flush, and seen by `close()` at the end of the batch."""
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
        """Store all records taken so far. Raises what `put` raises."""
        async with self._flushing:
            self._stop_timer()
            records = self._unflushed
            if not records:
                return
            self._unflushed = []
            try:
                await self._put(encode_segment(records))
                self.failed = None
                self._stored()
            except BaseException:
                self._unflushed = records + self._unflushed
                self._rearm()
                raise

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
