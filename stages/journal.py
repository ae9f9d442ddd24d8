"""The journal: what has been answered, and paid for. A set of facts, appended in immutable segments.

Two kinds of record (design: the journal):

    row    (stage fingerprint, row fingerprint)      → the row's final, validated answer, or its reject
    call   (request digest, ordinal within its row)  → the model's raw response, saved before anything parses it

A segment is a text object: a header line, then one line a record, `<crc32, 8 hex> <JSON>`. A torn line fails its
checksum and costs only itself. Compacted journals hold the same records as Parquet (`pipeline.journals`). Records are
never changed; two attempts of one batch can only add equal facts, so they cannot harm each other.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

FORMAT = 1
RowKey = tuple[str, str]
CallKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RowRecord:
    """`answer` is the JSON text of the stage's output columns; `error` describes a reject; `calls` are the calls that
    led here, so that a retry can void exactly them. `id` is the identity of the source row that asked."""

    stage: str
    row: str
    id: str
    status: Literal["ok", "rejected"]
    answer: str | None
    error: dict[str, Any] | None
    calls: tuple[CallKey, ...]
    run: str
    at: float

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class CallRecord:
    """`raw` is the JSON text of the response message; `paid` false: it failed before an answer (an attempt)."""

    request: str
    ordinal: int
    id: str
    model: str
    raw: str | None
    error: dict[str, Any] | None
    usage: dict[str, int]
    cost_usd: float | None
    request_id: str | None
    latency_ms: int
    run: str
    batch: int
    at: float
    nonce: str

    @property
    def key(self) -> CallKey:
        return self.request, self.ordinal


Record = RowRecord | CallRecord


# Segments ----------------------------------------------------------------------------------------------------------


def encode_segment(records: Iterable[Record]) -> bytes:
    """Header and lines."""
    lines = [orjson.dumps({"tandem_journal": FORMAT})]
    for record in records:
        kind = "row" if isinstance(record, RowRecord) else "call"
        body = orjson.dumps({"k": kind, **{name: getattr(record, name) for name in record.__slots__}})
        lines.append(b"%08x " % zlib.crc32(body) + body)
    return b"\n".join(lines) + b"\n"


@dataclass
class Segment:
    """The whole records of a segment, and how many lines were torn."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0


class UnknownFormat(Exception):
    """A segment written by another version: never guessed at."""


def decode_segment(data: bytes) -> Segment:
    """Records of a segment; torn lines are counted, not guessed. Raises UnknownFormat for another version's."""
    segment = Segment()
    header, _, rest = data.partition(b"\n")
    try:
        version = orjson.loads(header)["tandem_journal"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        segment.torn += 1  # without its header nothing says what the lines mean
        return segment
    if version != FORMAT:
        raise UnknownFormat(f"journal format {version!r}, this Tandem reads {FORMAT}")
    for line in rest.split(b"\n"):
        if line:
            record = _decode_line(line)
            if record is None:
                segment.torn += 1
            else:
                segment.records.append(record)
    return segment


def _decode_line(line: bytes) -> Record | None:
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        data = orjson.loads(line[9:])
        kind = data.pop("k")
        if kind == "row":
            data["calls"] = tuple((request, ordinal) for request, ordinal in data["calls"])
            return RowRecord(**data)
        return CallRecord(**data) if kind == "call" else None
    except (ValueError, TypeError, KeyError):
        return None


# Known answers and new ones ----------------------------------------------------------------------------------------


class Known:
    """Answers that a batch can take for nothing: those that `open` found, those of its earlier attempts, and those that
    are added while it runs."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.rows: dict[RowKey, RowRecord] = {}
        self.calls: dict[CallKey, CallRecord] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Later facts win over earlier rejects; an answer, once there, stays."""
        if isinstance(record, CallRecord):
            if record.raw is not None:
                self.calls.setdefault(record.key, record)
            return
        known = self.rows.get(record.key)
        if known is None or (known.status == "rejected" and record.at >= known.at):
            self.rows[record.key] = record


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
    ) -> None:
        self.known = known
        self._put = put
        self._flush_s = flush_s
        self._flush_records = flush_records
        self._strict = strict
        self._unflushed: list[Record] = []
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: BaseException | None = None

    async def append(self, record: Record) -> None:
        """Take a record; in `strict`, return when it is stored."""
        self.known.add(record)
        self._unflushed.append(record)
        if self._strict:
            await self.flush()
        elif len(self._unflushed) >= self._flush_records:
            self._start_flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._start_flush)

    def _start_flush(self) -> None:
        self._stop_timer()
        task = asyncio.ensure_future(self._flush_quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _flush_quietly(self) -> None:
        """A background flush: what fails is kept for the next flush, and seen by `flush()` at the end of the batch."""
        try:
            await self.flush()
        except Exception as exc:  # noqa: BLE001  any store failure means the same: keep the records
            self.failed = exc

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
            except BaseException:
                self._unflushed = records + self._unflushed
                raise

    async def close(self) -> None:
        """Flush, and wait for background flushes."""
        self._stop_timer()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flush()


def now() -> float:
    """Seconds since the epoch, as records are stamped."""
    return time.time()
