"""An expendable process for rows that may kill it: it runs them, and writes their answers to disk."""

import asyncio
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.activities.jobs import Jobs
from pipeline.journal.spool import Spools
from pipeline.limits.live_limits import load_limits
from pipeline.limits.run_budget import RunBudgets
from pipeline.processes.channel import Message
from pipeline.settings import current
from pipeline.telemetry.traces.rows import batch_spans
from schemas.errors import TandemError
from schemas.messages.batch import BatchRequest
from schemas.parked import ParkedCall
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext
from stages.execution.batch import run_rows
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import GraphRow, RowWatch
from stages.journal.known import Known
from stages.journal.records import Record
from stages.journal.segments import decode_segment, encode_segment
from stages.journal.writer import Journal
from stages.models.row.parking import BatchParking

_NEVER_S = 1e9


def packed(rows: Sequence[GraphRow], known: Iterable[Record], parking: BatchParking | None) -> bytes:
    """Serialise rows for a separate process, the journal records that they may use, and where their calls may wait for
    provider batch jobs."""
    empty = None if parking is None else replace(parking, calls=[])
    return pickle.dumps((list(rows), encode_segment(list(known)), empty))


def packed_result(stopped: TandemError | None, parked: Sequence[ParkedCall]) -> bytes:
    """Serialise the error that stopped rows, and the calls that wait for jobs. An error goes as class, arguments and
    attributes, as errors have constructors of their own."""
    error = None if stopped is None else (type(stopped), stopped.args, vars(stopped))
    return b"" if error is None and not parked else pickle.dumps((error, list(parked)))


def unpacked_result(data: bytes) -> tuple[TandemError | None, Sequence[ParkedCall]]:
    if not data:
        return None, ()
    error, parked = pickle.loads(data)  # noqa: S301  packed above, by a process of ours
    if error is None:
        return None, parked
    kind, arguments, attributes = error
    stopped: TandemError = kind.__new__(kind, *arguments)
    vars(stopped).update(attributes)
    return stopped, parked


@dataclass
class IsolatedRows:
    """The work of such a process. Once `drain` is set, no further row is begun."""

    watch: RowWatch
    drain: asyncio.Event
    jobs: Jobs
    budgets: RunBudgets = field(default_factory=lambda: RunBudgets(current().spend_folder))
    spools: Spools = field(default_factory=lambda: Spools(current().spool_folder))

    async def run(self, message: Message) -> Message:
        """Run the rows of one stage. Their records are in a spool of the batch, to be taken over."""
        request = BatchRequest.model_validate(message.data["request"])
        rows, known, parking = pickle.loads(message.body)  # noqa: S301  packed by a process of ours
        store = self.jobs.store(request.ref)
        limits = await asyncio.to_thread(load_limits, store, request.ref.run)
        job, _, services = await self.jobs.of(request.ref, request.plan, limits.tier)
        stage = next(s for s in job.stages if isinstance(s, GraphStage) and s.name == message.data["stage"])
        spool = self.spools.open(
            store.uri, request.ref.run, request.partition, request.batch, row=message.data["row"], kept=True
        )
        journal = Journal(
            _nowhere, known=Known(decode_segment(known).records), flush_s=_NEVER_S, flush_records=1 << 60, spool=spool
        )
        context = BatchContext(
            run=request.ref.run, batch=request.batch, journal=journal, shared=Shared(), drain=self.drain,
            watch=self.watch, no_calls=services.no_calls,
            observer=batch_spans(request.ref, request.partition, request.batch, job.spec), parking=parking,
        )  # fmt: skip
        try:
            async with self.budgets.of(store, request.ref) as context.budget:
                stopped = await run_rows(stage, rows, context)
        finally:
            await journal.close()
        spent = {"calls": context.tally.calls, "cost_usd": context.tally.cost_usd}
        return Message(spent, packed_result(stopped, parking.calls if parking is not None else ()))


async def _nowhere(_: bytes) -> None:
    """Write nothing: the spool is the whole journal of this process."""
