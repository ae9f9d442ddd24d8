"""What the journal remembers: its kinds of record, and their JSON (design: the journal).

    row     (stage fingerprint, row fingerprint)      → the row's final, validated answer, its reject, or what it asks
    call    (request digest, ordinal within its row)  → the model's raw response, saved before anything parses it
    answer  (a row, one of its questions)             → what a person said
    node    (a row, a place in its graph)             → what the node gave, where nodes are activities
    void    (a row, some of its calls)                → a person wants other answers

Records are facts and never changed: two attempts of one batch can only add equal ones, so they cannot harm each other.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import orjson

TOOL = "tool:"  # before a tool's name, where a call's record names its model: journalled, but nothing that was paid for
RowKey = tuple[str, str]
CallKey = tuple[str, int]
QuestionKey = tuple[str, int]


class _OfRow:
    """What is known of a row, in a stage."""

    __slots__ = ()
    stage: str
    row: str

    @property
    def key(self) -> RowKey:
        return self.stage, self.row


@dataclass(frozen=True, slots=True)
class RowRecord(_OfRow):
    """`answer` is the JSON text of the stage's output columns; `error` describes a reject, or what a pending row asks
    (`stages.execution.interrupts`); `calls` are the calls that led here, so that a retry can void exactly them. `id` is
    the identity of the source row that asked; `shared`: it took the answer of an equal row. `cost_usd` is what its
    calls cost, whoever paid for them; None where a price is not known. `mended`: the outputs that a model gave
    nearly as they were asked for; `$` is the text around the answer."""

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
class VoidRecord(_OfRow):
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


@dataclass(frozen=True, slots=True)
class AnswerRecord(_OfRow):
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


@dataclass(frozen=True, slots=True)
class NodeRecord(_OfRow):
    """What a node of the row's graph gave, serialised (`stages.execution.node_steps`); `where` is its step and its
    place in it."""

    stage: str
    row: str
    id: str
    where: str
    output: str
    calls: tuple[CallKey, ...]
    run: str
    at: float


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


def encode_record(record: Record) -> bytes:
    """The JSON of a record."""
    said = {"k": _NAMES[type(record)], **{name: getattr(record, name) for name in record.__slots__}}
    if said.get("mended") == ():
        del said["mended"]  # what earlier versions do not know is written where it says something
    return orjson.dumps(said)


def record_of(body: bytes) -> Record | None:
    """The record that some JSON is, None where it is none of ours."""
    try:
        data = orjson.loads(body)
        kind = _KINDS[data.pop("k")]
        for name in _SAME & data.keys():
            data[name] = sys.intern(data[name])
        if "calls" in data:
            data["calls"] = tuple((request, ordinal) for request, ordinal in data["calls"])
        if "mended" in data:
            data["mended"] = tuple(data["mended"])
        return kind(**data)
    except (ValueError, TypeError, KeyError):
        return None


def now() -> float:
    """Seconds since the epoch, as records are stamped."""
    return time.time()
