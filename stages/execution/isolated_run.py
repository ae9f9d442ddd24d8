"""Rows of a batch that may kill the process they run in, in processes of their own."""

from collections.abc import Callable, Iterable, Sequence

from schemas.errors import TandemError
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext
from stages.execution.guards.isolation import Attempt, GraphRow, Isolation, run_in_halves
from stages.execution.unsettled import is_settled
from stages.journal.known import Known
from stages.journal.records import Record, RowRecord


async def run_isolated(
    isolation: Isolation,
    stage: GraphStage,
    rows: list[GraphRow],
    context: BatchContext,
    is_over: Callable[[], bool],
) -> TandemError | None:
    """Run rows in processes of their own and store their records in the batch's journal. Returns the error that stopped
    it."""
    journal, equal = context.journal, {row.key: row.equal for row in rows}
    parked = set[str]()

    async def attempt(group: Sequence[GraphRow]) -> Attempt:
        tried = await isolation.attempt(stage, group, _known_of(group, journal.known), context.parking)
        if context.parking is not None:
            context.parking.calls += tried.parked
            parked.update(call.print for call in tried.parked)
        return tried

    async def store(records: Sequence[Record]) -> None:
        for record in records:
            await journal.append(record)
            if isinstance(record, RowRecord) and record.key in equal:
                rows = equal.pop(record.key)
                if record.status == "rejected":
                    context.tally.note_reject(record.error, rows)
                context.on_row(rows)

    def is_left(row: GraphRow) -> bool:
        return row.key[1] not in parked and not is_settled(journal.known.rows.get(row.key), journal.known)

    try:
        return await run_in_halves(rows, context.run, attempt, store, is_left, is_over)
    finally:
        await isolation.over()


def _known_of(rows: Iterable[GraphRow], known: Known) -> list[Record]:
    """Return the known records that a run of these rows may use: calls, and answers of people."""
    keys, ids = {row.key for row in rows}, {row.id for row in rows}
    calls = [call for call in known.calls.values() if call.id in ids]
    answers = [answer for key in keys & known.answers.keys() for answer in known.answers[key].values()]
    return [*calls, *answers]
