"""Rows of a batch that are not finished."""

import polars as pl

from stages.contract import RESERVED, GraphStage
from stages.execution.guards.isolation import KILLED
from stages.execution.guards.row_timeout import TIMED_OUT
from stages.execution.questions import PENDING, is_waiting
from stages.execution.row_prints import row_prints
from stages.journal.known import Known
from stages.journal.records import Record, RowRecord

_OWN = (KILLED, TIMED_OUT)  # reasons that an equal row need not have
ID = f"{RESERVED}id"


def unsettled(stage: GraphStage, rows: pl.DataFrame, ids: list[str], known: Known) -> pl.DataFrame:
    """Return the rows that the stage still has to run: the columns that it reads, and their identities under ID; of
    equal rows the first."""
    prints = row_prints(stage, rows, ids)
    first: dict[str, int] = {}
    for index, row in enumerate(prints):
        first.setdefault(row, index)
    todo = [index for row, index in first.items() if not is_settled(known.rows.get((stage.fingerprint, row)), known)]
    return rows.select(stage.reads)[todo].with_columns(pl.Series(ID, [ids[index] for index in todo], dtype=pl.String))


def is_settled(record: RowRecord | None, known: Known) -> bool:
    """True if there is nothing to do for a row. A pending row has to be run again once a person has answered."""
    return record is not None and (record.status != PENDING or is_waiting(record, known))


def is_shareable(record: Record) -> bool:
    """True if an equal row of another partition can use a record: not the questions of a row that waits for a person,
    nor rejects that were not for the answer's sake."""
    if not isinstance(record, RowRecord):
        return True
    return record.status == "ok" or (record.status == "rejected" and (record.error or {}).get("kind") not in _OWN)


def is_answered(record: RowRecord | None) -> bool:
    """True if a model has answered the row."""
    return record is not None and record.status == "ok" and bool(record.calls)
