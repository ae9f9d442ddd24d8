"""An expendable process for rows that may kill it: it runs them, and writes their answers to disk."""

import asyncio
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.activities.jobs import Jobs
from pipeline.journal.spool import Spools
from pipeline.limits.run_budget import RunBudgets
from pipeline.processes.channel import Message
from pipeline.settings import current
from pipeline.telemetry.traces.rows import batch_spans
from schemas.errors import TandemError
from schemas.messages.batch import BatchRequest
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext
from stages.execution.batch import run_rows
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import GraphRow, RowWatch
from stages.journal.known import Known
from stages.journal.records import Record
from stages.journal.segments import decode_segment, encode_segment
from stages.journal.writer import Journal

_NEVER_S = 1e9


def packed(rows: Sequence[GraphRow], known: Iterable[Record]) -> bytes:
    """Serialise rows, and the journal records that they may use, for a separate process."""
    return pickle.dumps((list(rows), encode_segment(list(known))))


def packed_stop(stopped: TandemError | None) -> bytes:
    """Serialise an error as class, arguments and attributes, as errors have constructors of their own."""
    return b"" if stopped is None else pickle.dumps((type(stopped), stopped.args, vars(stopped)))


def unpacked_stop(data: bytes) -> TandemError | None:
    if not data:
        return None
    kind, arguments, attributes = pickle.loads(data)  # noqa: S301  packed above, by a process of ours
    stopped: TandemError = kind.__new__(kind, *arguments)
    vars(stopped).update(attributes)
    return stopped


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
        rows, known = pickle.loads(message.body)  # noqa: S301  packed by a process of ours
        store = self.jobs.store(request.ref)
        job, _, services = await self.jobs.of(request.ref, request.plan)
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
            observer=batch_spans(request.ref, request.partition, request.batch, job.spec),
        )  # fmt: skip
        try:
            async with self.budgets.of(store, request.ref) as context.budget:
                stopped = await run_rows(stage, rows, context)
        finally:
            await journal.close()
        spent = {"calls": context.tally.calls, "cost_usd": context.tally.cost_usd}
        return Message(spent, packed_stop(stopped))


async def _nowhere(_: bytes) -> None:
    """Write nothing: the spool is the whole journal of this process."""
