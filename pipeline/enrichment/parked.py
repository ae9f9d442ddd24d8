"""Calls of a batch that wait for provider jobs: those that its rows parked in earlier waves, and in this one."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.stores import Store
from schemas import ids
from schemas.errors import Damaged
from schemas.messages.jobs import ParkedCalls, Waves
from schemas.parked import ParkedCall, decode, encode
from stages.models.row.parking import BatchParking, earlier_calls


def open_parking(attempt: BatchAttempt, waves: Waves, refused: Mapping[str, Mapping[str, Any]]) -> BatchParking:
    """Return where the calls of an attempt are parked. `refused`: the errors of requests that jobs refused. Blocks;
    raises StoreError, Damaged."""
    files = _files(attempt.store, attempt.run, attempt.partition, attempt.number) if waves.wave else {}
    return BatchParking(waves.wave, waves.late, earlier_calls(files, waves.wave), refused)


def _files(store: Store, run: str, partition: str, number: int) -> dict[str, list[ParkedCall]]:
    found = {}
    for info in store.list(f"{ids.parked_folder(run, partition)}b{number:05d}-"):
        try:
            found[info.key] = decode(store.get(info.key))
        except ValueError as exc:
            raise Damaged(f"{store.uri}/{info.key}: {exc}.", hint="Run it again under another --name.") from exc
    return found


def write_parked(attempt: BatchAttempt, calls: list[ParkedCall]) -> ParkedCalls:
    """Store the calls that an attempt parked, under a name of their content. Blocks; raises StoreError."""
    content = encode(sorted(calls, key=lambda call: (call.request, call.ordinal, call.row)))
    key = ids.parked_file(attempt.run, attempt.partition, attempt.number, hashlib.sha256(content).hexdigest())
    attempt.store.put_absent(key, content)
    return ParkedCalls(calls=len(calls), pools=tuple(sorted({call.pool for call in calls})), files=(key,))
