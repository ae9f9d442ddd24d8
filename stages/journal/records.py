"""The kinds of record in the journal, and their JSON.

    row     (stage fingerprint, row fingerprint)      → the row's final, validated answer, its reject, or its questions
    call    (request digest, ordinal within its row)  → the model's raw response, saved before anything parses it
    answer  (a row, one of its questions)             → a person's answer
    node    (a row, a place in its graph)             → the node's output, if nodes are activities
    request (request digest)                          → the messages of a request that belong to it alone
    common  (digest of the text)                      → what many requests begin with: system text, schema, tools
    void    (a row, some of its calls)                → a person asks for other answers

Records are facts and never changed: two attempts of one batch can only add equal ones, so they cannot harm each other.
"""

import base64
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import pyarrow as pa

TOOL = "tool:"  # before a tool's name in a call's `model`: journalled, but not paid for
RowKey = tuple[str, str]
CallKey = tuple[str, int]
QuestionKey = tuple[str, int]


class _RowFact:
    """A record about a row in a stage."""

    __slots__ = ()
    stage: str
    row: str

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class RowRecord(_RowFact):
    """`answer` is the JSON text of the stage's output columns; `error` describes a reject, or the questions of a
    pending row (`stages.execution.questions`); `calls` are the calls that led here, so that a retry can void exactly
    them. `id` is the identity of the source row; `shared`: it uses the answer of an equal row. `cost_usd` is the cost
    of its calls, even if another row paid; None if a price is not known. `mended`: the outputs that were corrected; `$`
    is text around the answer. `by`: for each model that was asked, the name by which its last answer calls it."""

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
    mended: tuple[str, ...] = ()
    by: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """`raw` is the JSON text of the response message; None: the request went out and its outcome is not known
    (`error` says why), so it may have been billed. `carried`: a copy from another journal, where it counts. `by`: who
    answered, as far as the answer says it: `model`, `fingerprint` of the system, `tier`, and the `endpoint`; and the
    `stage` that asked."""

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
    carried: bool = False
    by: dict[str, str] | None = None

    @property
    def key(self) -> CallKey:
        return self.request, self.ordinal


@dataclass(frozen=True, slots=True)
class VoidRecord(_RowFact):
    """A person asked for another answer: rejects of this row, and the answers of these calls, from before `at` are
    void. Calls that did not cause the reject stay. `answer`: the row's answer is void, too, as a later stage rejected
    it."""

    stage: str
    row: str
    id: str
    calls: tuple[CallKey, ...]
    run: str
    at: float
    answer: bool = False


@dataclass(frozen=True, slots=True)
class AnswerRecord(_RowFact):
    """A person's answer, as JSON text, to the question of this digest that the row asks for the `ordinal`-th time. `by`
    is the name of the person, if it is known."""

    stage: str
    row: str
    id: str
    question: str
    ordinal: int
    answer: str
    run: str
    at: float
    nonce: str
    by: str | None = None


@dataclass(frozen=True, slots=True)
class NodeRecord(_RowFact):
    """The output of a node of the row's graph, serialised (`stages.execution.node_steps`); `where` is its step and its
    place in it."""

    stage: str
    row: str
    id: str
    where: str
    output: str
    calls: tuple[CallKey, ...]
    run: str
    at: float


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A model's request, of the digest that its calls name: `messages` is the JSON text of those that follow the common
    ones; `id` the identity of a row that asked it. Long binary content is named by its digest."""

    request: str
    id: str
    common: str
    messages: str
    run: str
    at: float

    @property
    def key(self) -> CallKey:
        return self.request, 0


@dataclass(frozen=True, slots=True)
class CommonRecord:
    """What many requests have in common, as the JSON text of an object: `model`, `settings`, and the first
    `messages`."""

    common: str
    text: str
    run: str
    at: float

    @property
    def key(self) -> CallKey:
        return self.common, 0


Record = RowRecord | CallRecord | VoidRecord | AnswerRecord | NodeRecord | RequestRecord | CommonRecord
_KINDS: dict[str, type[Record]] = {
    "row": RowRecord,
    "call": CallRecord,
    "void": VoidRecord,
    "answer": AnswerRecord,
    "node": NodeRecord,
    "request": RequestRecord,
    "common": CommonRecord,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_KIND_FIRST = b'{"k":"'
_KNOWN = {name.encode() for name in _KINDS}
_LARGE = 4_096  # characters of a request, above which its text is compressed
_SAME = {"stage", "run", "status", "model", "common"}  # of thousands of records, so that all share one string


def encode_record(record: Record) -> bytes:
    """Return the JSON of a record."""
    fields = {"k": _NAMES[type(record)], **{name: getattr(record, name) for name in record.__slots__}}
    if isinstance(record, RequestRecord) and len(record.messages) > _LARGE:
        text = record.messages.encode()
        packed = base64.b64encode(pa.compress(text, codec="zstd", asbytes=True)).decode()
        fields |= {"messages": "", "packed": packed, "size": len(text)}
    for name in ("mended", "carried", "by"):
        if not fields.get(name, True):
            del fields[name]  # earlier versions do not know it, so it is written only if it says something
    return orjson.dumps(fields)


def is_record(body: bytes) -> bool:
    """True for the JSON of a record of a kind that is known, by its first field."""
    return body.startswith(_KIND_FIRST) and body[len(_KIND_FIRST) : body.find(b'"', len(_KIND_FIRST))] in _KNOWN


def record_of(body: bytes) -> Record | None:
    """Return the record in some JSON, None if it is none of ours."""
    try:
        data = orjson.loads(body)
        kind = _KINDS[data.pop("k")]
        for name in _SAME & data.keys():
            data[name] = sys.intern(data[name])
        if "calls" in data:
            data["calls"] = tuple((request, ordinal) for request, ordinal in data["calls"])
        if "mended" in data:
            data["mended"] = tuple(data["mended"])
        if "packed" in data:
            packed, size = base64.b64decode(data.pop("packed")), data.pop("size")
            data["messages"] = pa.decompress(packed, decompressed_size=size, codec="zstd", asbytes=True).decode()
        return kind(**data)
    except (ValueError, TypeError, KeyError, pa.ArrowException, OSError):
        return None


def now() -> float:
    """Return seconds since the epoch, the time of records."""
    return time.time()
