"""Calls that a job held already when they were parked, of files that came after it was collected: their answers are in
the journals of the partitions that paid for them, and the provider is not asked for them again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import orjson
import polars as pl

from pipeline.journal.compacted import listed, read_compacted
from pipeline.journal.segments import Reading, read_segments
from pipeline.provider_jobs.answers import Outcome, nonce_of
from pipeline.provider_jobs.requests import Pool, asked_key
from schemas import ids
from schemas.job_requests import AskedKey, GivenBack
from schemas.parked import ParkedCall
from stages.journal.records import CallRecord, record_of

_LISTINGS = 3  # a reader lists again if a listed object is gone


class CollectedAnswers:
    """What became of the requests of a job that was collected. `lost`: those whose answers are in no journal any more,
    and that no list has as given back."""

    def __init__(self, pool: Pool, job: str, id: str) -> None:
        held = pool.requests_of(job)
        self.lost: dict[AskedKey, GivenBack] = {}
        self._pool, self._job, self._id = pool, job, id
        self._partitions = {one.key: ids.parse_parked(held.parked[one.file])[1] for one in held.requests}
        self._given_back = {one.key for one in pool.given_back(job)}

    def outcomes(self, calls: Sequence[ParkedCall], batch: int) -> Callable[[ParkedCall], Outcome]:
        """Return what became of each of these calls of a batch. Blocks; raises StoreError."""
        answered = {asked_key(call) for call in calls} - self._given_back
        records: dict[str, CallRecord] = {}
        refused: dict[tuple[str, int], dict[str, Any]] = {}
        for partition in sorted({self._partitions[key] for key in answered}):
            nonces = {nonce_of(self._id, self._job, key) for key in answered if self._partitions[key] == partition}
            records |= {record.nonce: record for record in self._records(partition, nonces)}
            refused |= self._refused(partition)

        def outcome_of(call: ParkedCall) -> Outcome:
            key = asked_key(call)
            if (error := refused.get((call.request, call.ordinal))) is not None:
                return Outcome(refused=error)
            record = records.get(nonce_of(self._id, self._job, key))
            if record is None:
                if key in answered:
                    self.lost[key] = GivenBack(*key, failed=False)
                return Outcome(again=True)
            request = record.request if record.request == call.capped else call.request
            by = {**(record.by or {}), **({"stage": call.stage} if call.stage else {})}
            return Outcome(replace(record, request=request, id=call.row, batch=batch, by=by))

        return outcome_of

    def _records(self, partition: str, nonces: set[str]) -> Iterator[CallRecord]:
        """Yield the answers with these nonces in the journal of a partition."""
        store = self._pool.store
        for _ in range(_LISTINGS):
            reading = Reading()
            segments, merged = listed(store, partition, self._pool.run)
            for chunk in read_compacted(store, merged, ["kind", "nonce", "body"], reading, requests=False):
                found = chunk.filter((pl.col("kind") == "call") & pl.col("nonce").is_in(nonces))
                yield from (one for body in found["body"] if _is_answer(one := record_of(body)))
            for records in read_segments(store, segments, reading):
                yield from (one for one in records if _is_answer(one) and one.nonce in nonces)
            if not reading.gone:
                return

    def _refused(self, partition: str) -> dict[tuple[str, int], dict[str, Any]]:
        """Return the errors of the partition's calls that the provider refused in this job."""
        found = {}
        store = self._pool.store
        for info in store.list(f"{ids.refused_calls(self._pool.run, partition)}{self._job}-"):
            for line in store.get(info.key).splitlines():
                request, ordinal, error = orjson.loads(line)
                found[request, ordinal] = error
        return found


def _is_answer(record: object) -> TypeGuard[CallRecord]:
    return isinstance(record, CallRecord) and record.raw is not None
