"""Which rows of a batch there is still something to do for."""

import polars as pl

from stages.contract import RESERVED, GraphStage
from stages.execution.interrupts import PENDING, waits
from stages.journal.fingerprints import fingerprints
from stages.journal.known import Known
from stages.journal.records import RowRecord

ID = f"{RESERVED}id"


def unsettled(stage: GraphStage, rows: pl.DataFrame, ids: list[str], known: Known) -> pl.DataFrame:
    """What the stage reads of the rows that it would still have to run, and their identities under ID; of equal rows
    the first."""
    prints = fingerprints(rows, stage.reads)
    first: dict[str, int] = {}
    for at, row in enumerate(prints):
        first.setdefault(row, at)
    todo = [at for row, at in first.items() if not is_settled(known.rows.get((stage.fingerprint, row)), known)]
    return rows.select(stage.reads)[todo].with_columns(pl.Series(ID, [ids[at] for at in todo], dtype=pl.String))


def is_settled(record: RowRecord | None, known: Known) -> bool:
    """Is there nothing to do for a row? A pending one has to be run again once it was answered."""
    return record is not None and (record.status != PENDING or waits(record, known))


def is_answered(record: RowRecord | None) -> bool:
    """Has a model answered the row?"""
    return record is not None and record.status == "ok" and bool(record.calls)
