"""Answers that are known: in the row's own journal, or in another one, from which they are copied."""

from dataclasses import replace

import orjson

from stages.journal.records import CallKey, CallRecord
from stages.journal.requests import RequestText
from stages.models.backend import Backend
from stages.models.request import ModelRequest
from stages.models.row.scope import RowScope
from stages.models.wires.protocols.search import TURNS


async def find_answer(scope: RowScope, backend: Backend, request: ModelRequest, key: CallKey) -> CallRecord | None:
    """Return the answer that is known, or that another journal has: that one is copied into ours."""
    known, finder = known_answer(scope, backend, request, key), scope.journal.finder
    if known is not None or finder is None:
        return known
    keys = [(scope.own_digest(name.digest), key[1]) for name in request.names]
    if not finder.may_have([digest for digest, _ in keys]):
        return None
    try:
        found = await finder.find(keys)
    except Exception as exc:
        scope.record_failure(exc)
        raise
    for record in found:
        if record.at > scope.journal.known.voided(record):
            await append(scope, replace(record, id=scope.id, carried=True), request.text)
    return known_answer(scope, backend, request, key)


def known_answer(scope: RowScope, backend: Backend, request: ModelRequest, key: CallKey) -> CallRecord | None:
    """Return the answer in the journal: one that ended by itself and is no longer than the cap now, else one that was
    given under this very cap."""
    known, cap = scope.journal.known.calls, request.cap or backend.cap
    for name in request.names:
        found = known.get((scope.own_digest(name.digest), key[1]))
        if found is not None and (name.capped or cap is None or _fits(found, cap)):
            return found
    return None


def _fits(record: CallRecord, cap: int) -> bool:
    """True for an answer that is no longer than a cap; of one that paused, each turn has it."""
    output = record.usage.get("output", 0)
    if output <= cap or record.raw is None:
        return output <= cap
    turns: int = orjson.loads(record.raw)["response_metadata"].get(TURNS, 1)
    return output <= cap * turns


async def append(scope: RowScope, record: CallRecord, text: RequestText | None) -> None:
    """Append a call, and its request, to the journal. A failure is never the row's fault, and the graph must not handle
    it."""
    try:
        scope.journal.note_request(record, text)
        await scope.journal.append(record)
    except Exception as exc:
        scope.record_failure(exc)
        raise
