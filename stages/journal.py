"""The journal: what has been answered, and paid for. A set of facts, appended in immutable segments.

Kinds of record (design: the journal):

    row     (stage fingerprint, row fingerprint)      → the row's final, validated answer, its reject, or what it asks
    call    (request digest, ordinal within its row)  → the model's raw response, saved before anything parses it
    answer  (a row, one of its questions)             → what a person said
    node    (a row, a place in its graph)             → what the node gave, where nodes are activities
    void    (a row, some of its calls)                → a person wants other answers

A segment is a text object: a header line, then one line a record, `<crc32, 8 hex> <JSON>`. A torn line fails its
checksum and costs only itself. Compacted journals hold the same records as Parquet (`pipeline.journals`). Records are
never changed; two attempts of one batch can only add equal facts, so they cannot harm each other.
"""

import asyncio
import math
import re
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import orjson

FORMAT = 1
TOOL = "tool:"  # before a tool's name, where a call's record names its model: journalled, but nothing that was paid for
_LINE_START = re.compile(rb"[0-9a-f]{8} \{")
RowKey = tuple[str, str]
CallKey = tuple[str, int]
QuestionKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RowRecord:
    """`answer` is the JSON text of the stage's output columns; `error` describes a reject, or what a pending row asks
    (`stages.questions`); `calls` are the calls that led here, so that a retry can void exactly them. `id` is the
    identity of the source row that asked; `shared`: it took the answer of an equal row. `cost_usd` is what its calls
    cost, whoever paid for them; None where a price is not known."""

    stage: str
    row: str
    id: str
    status: Literal["ok", "rejected", "pending"]
    answer: str | None
    error: dict[str, Any] | None
    calls: tuple[CallKey, ...]
    run: str
    at: float
    shared: bool = False
    cost_usd: float | None = None

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class CallRecord:
    """`raw` is the JSON text of the response message; None: the request went out and its outcome is not known
    (`error` says why), so it may have been billed."""

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


@dataclass(frozen=True, slots=True)
class VoidRecord:
    """A person asked for another answer: rejects of this row, and these calls' answers, from before `at` count no more.
    What led to the reject but did not cause it stays. `answer`: what the row was answered counts no more either, as a
    later stage rejected it."""

    stage: str
    row: str
    id: str
    calls: tuple[CallKey, ...]
    run: str
    at: float
    answer: bool = False

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """A person's answer, as JSON text, to the question of this digest that the row asks for the `ordinal`-th time."""

    stage: str
    row: str
    id: str
    question: str
    ordinal: int
    answer: str
    run: str
    at: float
    nonce: str

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node of the row's graph gave, serialised (`stages.steps`); `where` is its step and its place in it."""

    stage: str
    row: str
    id: str
    where: str
    output: str
    calls: tuple[CallKey, ...]
    run: str
    at: float

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


Record = RowRecord | CallRecord | VoidRecord | AnswerRecord | NodeRecord
_KINDS: dict[str, type[RowRecord] | type[CallRecord] | type[VoidRecord] | type[AnswerRecord] | type[NodeRecord]] = {
    "row": RowRecord,
    "call": CallRecord,
    "void": VoidRecord,
    "answer": AnswerRecord,
    "node": NodeRecord,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_SAME = {"stage", "run", "status", "model"}  # of thousands of records, so that all share one string


# Segments ----------------------------------------------------------------------------------------------------------


def encode_segment(records: Iterable[Record]) -> bytes:
    """Header and lines."""
    lines = [orjson.dumps({"tandem_journal": FORMAT})]
    for record in records:
        lines.append(_line(encode_record(record)))
    return b"\n".join(lines) + b"\n"


def _line(body: bytes) -> bytes:
    return b"%08x " % zlib.crc32(body) + body


def decode_spool(data: bytes) -> list[Record]:
    """What a process that died had noted since its last flush: records, and a call of unknown outcome for each request
    that was out. Torn lines are what it was writing when it died."""
    records: list[Record] = []
    out: dict[str, CallRecord] = {}
    for line in data.split(b"\n"):
        body = _checked(line)
        if body is None:
            continue
        if (record := record_of(body)) is not None:
            records.append(record)
            if isinstance(record, CallRecord):
                out.pop(record.nonce, None)
            continue
        said = orjson.loads(body)
        if "sent" in said:
            unknown = record_of(orjson.dumps(said["sent"]))
            if isinstance(unknown, CallRecord):
                out[unknown.nonce] = unknown
        else:
            out.pop(said.get("unbilled", ""), None)
    return [*records, *out.values()]


def encode_record(record: Record) -> bytes:
    """The JSON of a record."""
    return orjson.dumps({"k": _NAMES[type(record)], **{name: getattr(record, name) for name in record.__slots__}})


def record_of(body: bytes) -> Record | None:
    """The record that some JSON is, None where it is none of ours."""
    try:
        data = orjson.loads(body)
        kind = _KINDS[data.pop("k")]
        for name in _SAME & data.keys():
            data[name] = sys.intern(data[name])
        if "calls" in data:
            data["calls"] = tuple((request, ordinal) for request, ordinal in data["calls"])
        return kind(**data)
    except (ValueError, TypeError, KeyError):
        return None


@dataclass
class Segment:
    """The whole records of a segment, and how many lines were torn."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0


class UnknownFormat(Exception):
    """A segment written by another version: never guessed at."""


def decode_segment(data: bytes) -> Segment:
    """Records of a segment; torn lines are counted, not guessed. Raises UnknownFormat for another version's.

    A torn header costs nothing more than itself: lines say what they are, and a later format must seed its checksums
    (`zlib.crc32(body, FORMAT)`), so that its lines can never pass for ours.
    """
    segment = Segment()
    header, *lines = data.split(b"\n")
    version = _version(header)
    if version is None:
        _decode_line(header, segment)
    elif version != FORMAT:
        raise UnknownFormat(f"journal format {version!r}, this Tandem reads {FORMAT}")
    for line in lines:
        if line:
            _decode_line(line, segment)
    return segment


def _version(header: bytes) -> int | None:
    try:
        version = orjson.loads(header)["tandem_journal"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


def _decode_line(line: bytes, segment: Segment) -> None:
    record = _whole(line)
    if record is not None:
        segment.records.append(record)
        return
    segment.torn += 1
    for start in _LINE_START.finditer(line, 1):  # a torn line break: what follows it is whole
        before, after = _whole(line[: start.start() - 1]), _whole(line[start.start() :])
        segment.records.extend(record for record in (before, after) if record is not None)
        if after is not None:
            return


def _whole(line: bytes) -> Record | None:
    body = line[9:]
    return record_of(body) if _checked(line) is not None else None


def _checked(line: bytes) -> bytes | None:
    """The body of a line whose checksum holds."""
    body = line[9:]
    return body if body and line[:9] == b"%08x " % zlib.crc32(body) else None


# Known answers and new ones ----------------------------------------------------------------------------------------


class Known:
    """Answers that a batch can take for nothing: those that `open` found, those of its earlier attempts, and those that
    are added while it runs."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.rows: dict[RowKey, RowRecord] = {}
        self.calls: dict[CallKey, CallRecord] = {}
        self.answers: dict[RowKey, dict[QuestionKey, AnswerRecord]] = {}
        self.nodes: dict[RowKey, dict[str, NodeRecord]] = {}
        self._voided: dict[RowKey | CallKey, float] = {}
        self._answers_voided: dict[RowKey, float] = {}
        # Those that others of their key won over: they count where those are voided.
        self._others: dict[RowKey | CallKey, list[RowRecord | CallRecord | NodeRecord]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """An answer wins over rejects and questions, a later one of these over an earlier, the first answer over later
        ones; of what people say, the last word counts. Whatever the order in which facts are read, the same are
        known."""
        if isinstance(record, VoidRecord):
            self._void(record)
            return
        if isinstance(record, AnswerRecord):
            said = self.answers.setdefault(record.key, {})
            before = said.get((record.question, record.ordinal))
            if before is None or (record.at, record.nonce) > (before.at, before.nonce):
                said[record.question, record.ordinal] = record
            return
        if record.at <= self.voided(record):
            return
        if isinstance(record, CallRecord):
            call = self.calls.get(record.key)
            if record.raw is not None and (call is None or record.at < call.at):
                self.calls[record.key] = record
                self._keep_other(call)
            elif record.raw is not None and record != call:
                self._keep_other(record)
            return
        if isinstance(record, NodeRecord):
            nodes = self.nodes.setdefault(record.key, {})
            first = nodes.get(record.where)
            if first is None or record.at < first.at:
                nodes[record.where] = record
                self._keep_other(first)
            elif record != first:
                self._keep_other(record)
            return
        row = self.rows.get(record.key)
        if row is None or _precedence(record) > _precedence(row):
            self.rows[record.key] = record
            self._keep_other(row)
        elif record != row:
            self._keep_other(record)

    def voided(self, record: Record) -> float:
        """Until when what is of this record's kind and key counts no more."""
        if isinstance(record, AnswerRecord | VoidRecord):
            return 0.0
        if isinstance(record, RowRecord) and record.status == "ok":
            return self._answers_voided.get(record.key, 0.0)
        return self._voided.get(record.key, 0.0)

    def _keep_other(self, record: RowRecord | CallRecord | NodeRecord | None) -> None:
        if record is not None:
            self._others.setdefault(record.key, []).append(record)

    def _void(self, record: VoidRecord) -> None:
        keys: tuple[RowKey | CallKey, ...] = (record.key, *record.calls)
        for key in keys:
            self._voided[key] = max(record.at, self._voided.get(key, 0.0))
        if record.answer:
            self._answers_voided[record.key] = max(record.at, self._answers_voided.get(record.key, 0.0))
        known: list[RowRecord | CallRecord | NodeRecord | None] = [self.rows.pop(record.key, None)]
        known += self.nodes.pop(record.key, {}).values()
        known += [self.calls.pop(asked, None) for asked in record.calls]
        for key in keys:
            known += self._others.pop(key, ())
        for other in known:
            if other is not None:
                self.add(other)


def _precedence(record: RowRecord) -> tuple[bool, float]:
    answered = record.status == "ok"
    return answered, -record.at if answered else record.at


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
            self._spool.write(_line(encode_record(record)))

    def sending(self, record: CallRecord) -> None:
        """A request is about to go out. Unless its answer is noted, or that it was not billed, its outcome is unknown:
        `record` then says so."""
        if self._spool is not None:
            line = self._sent[record.nonce] = _line(b'{"sent":' + encode_record(record) + b"}")
            self._spool.write(line)

    def unbilled(self, nonce: str) -> None:
        """The request of this nonce failed, and was not paid for."""
        if self._spool is not None and self._sent.pop(nonce, None) is not None:
            self._spool.write(_line(orjson.dumps({"unbilled": nonce})))

    def _stored(self) -> None:
        """What was flushed is in the store: the spool needs to keep only what came since, and what is in flight."""
        if self._spool is not None:
            lines = [_line(encode_record(record)) for record in self._unflushed]
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


def now() -> float:
    """Seconds since the epoch, as records are stamped."""
    return time.time()
