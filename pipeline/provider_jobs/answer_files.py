"""What became of the calls of a parked file: records in its partition's journal, refusals, calls to be asked again.

All of it has names of its content, or of the job and the file, so that it may be written again after an interruption.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from pipeline.provider_jobs.answers import Outcome
from pipeline.provider_jobs.requests import Pool, asked_key, load_parked
from schemas import ids
from schemas.digests import digest
from schemas.errors import FatalModelError, ObjectMissing
from schemas.job_requests import AskedKey, GivenBack, JobRequests
from schemas.parked import ParkedCall, encode
from stages import observer
from stages.journal.records import CallKey, CallRecord, Record, encode_record
from stages.journal.requests import KeptRequests, RequestText
from stages.journal.segments import line_of, segment_of
from stages.limits.budget import amount_of
from stages.limits.prices import Pricer

_SEGMENT_BYTES = 4_000_000
# Of the calls of a file of a batch: what became of each.
Outcomes = Callable[[Sequence[ParkedCall], int], Callable[[ParkedCall], Outcome]]


@dataclass
class Total:
    """What became of a job's requests, each counted once; of the row that pays. `price`: the standard one."""

    price: Pricer
    counts: Counter[str] = field(default_factory=Counter)
    given_back: list[GivenBack] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    cost_usd: float | None = 0.0
    standard_usd: float = 0.0
    nano_usd: int = 0
    tokens: int = 0
    fatal: FatalModelError | None = None

    def add(self, key: AskedKey, outcome: Outcome) -> None:
        self.fatal = self.fatal or outcome.fatal
        if outcome.again:
            self.given_back.append(GivenBack(*key, outcome.failed))
            self.counts["missing"] += outcome.missing
        elif outcome.refused is not None:
            self.counts["refused"] += 1
        else:
            self.counts["answered"] += 1
        if (record := outcome.record) is None or record.raw is None:
            return
        amount = amount_of(record.cost_usd, record.usage["input"] + record.usage["output"])
        self.nano_usd += amount.nanos
        self.tokens += amount.tokens
        known = self.cost_usd is not None and record.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (record.cost_usd or 0.0) if known else None
        self.standard_usd += self.price(record.usage) or 0.0
        if (seen := observer.current) is not None:
            seen.call_answered(record.model, record.usage, record.cost_usd, "batch")


class AnswerFiles:
    """The parked files that wait for a job, written one after the other."""

    def __init__(self, pool: Pool, job: str, held: JobRequests) -> None:
        self._pool = pool
        self._job = job
        self._payers = {one.key: (one.file, one.line) for one in held.requests}

    def write(self, file: str, number: int | None, outcomes: Outcomes, total: Total) -> None:
        """Write what became of the calls of a parked file, the `number`-th of those that the job was formed from; None
        for one that came late, which pays for nothing."""
        _, partition, batch = ids.parse_parked(file)
        records = _Records(self._pool, partition, batch, digest(self._job, file))
        refused, again = list[tuple[ParkedCall, Mapping[str, Any]]](), list[ParkedCall]()
        try:
            calls = load_parked(self._pool.store, file)
        except ObjectMissing:  # taken out with the rows that it held
            return
        mine = [line for line, call in enumerate(calls) if self._is_held(call)]
        outcome_of = outcomes([calls[line] for line in mine], batch)
        for line in mine:
            call = calls[line]
            pays = self._payers[asked_key(call)] == (number, line)
            outcome = outcome_of(call)
            if pays:
                total.add(asked_key(call), outcome)
            if outcome.refused is not None:
                refused.append((call, outcome.refused))
            if outcome.again:
                again.append(call)
            records.add(call, outcome.record, pays=pays)
        records.close()
        self._put_refused(partition, file, refused)
        if again:
            content = encode(again)
            key_again = ids.parked_file(self._pool.run, partition, batch, digest(self._job, file, content))
            self._pool.store.put_absent(key_again, content)
            total.again.append(key_again)

    def _is_held(self, call: ParkedCall) -> bool:
        return call.pool == self._pool.name and asked_key(call) in self._payers

    def _put_refused(self, partition: str, file: str, refused: Sequence[tuple[ParkedCall, Mapping[str, Any]]]) -> None:
        if not refused:
            return
        lines = [orjson.dumps((call.request, call.ordinal, error)) for call, error in refused]
        key = ids.refused_calls_of(self._pool.run, partition, self._job, digest(file))
        self._pool.store.put_absent(key, b"\n".join(lines) + b"\n")


@dataclass
class _Records:
    """The segments of one parked file: its calls with their requests, each under a name of the job and the file."""

    pool: Pool
    partition: str
    batch: int
    name: str
    _lines: list[bytes] = field(default_factory=list)
    _bytes: int = 0
    _written: int = 0
    _kept: KeptRequests = field(default_factory=KeptRequests)
    _copied: set[tuple[CallKey, str]] = field(default_factory=set)

    def add(self, call: ParkedCall, record: CallRecord | None, *, pays: bool) -> None:
        """Add the record of a call. One row needs one copy only."""
        if record is None or (record.raw is None and not pays) or (record.key, call.row) in self._copied:
            return
        self._copied.add((record.key, call.row))
        if not pays:
            record = replace(record, carried=True)
        if call.messages:
            for kept in self._kept.records_of(record, RequestText(call.common.encode(), call.messages.encode())):
                self._kept.has(kept)
                self._note(kept)
        self._note(record)
        if self._bytes >= _SEGMENT_BYTES:
            self.close()

    def _note(self, record: Record) -> None:
        line = line_of(encode_record(record))
        self._lines.append(line)
        self._bytes += len(line)

    def close(self) -> None:
        """Store what was added since."""
        if self._lines:
            nonce = digest(self.name, str(self._written))
            key = ids.journal_segment(self.partition, self.pool.run, self.batch, nonce)
            self.pool.store.put_absent(key, segment_of(self._lines))
            self._lines, self._bytes = [], 0
            self._written += 1
