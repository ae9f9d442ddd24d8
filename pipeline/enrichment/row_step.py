"""One row of a stage whose nodes are activities, one step of its graph at a time (design: placement)."""

import polars as pl

from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas.errors import PartitionError
from schemas.messages.batch import RowInput
from stages.contract import GraphStage
from stages.execution.attempt import BatchContext, StageOutcome
from stages.execution.batch import run_graph_stage
from stages.execution.unsettled import ID


async def step(stage: GraphStage, row: pl.DataFrame, context: BatchContext) -> StageOutcome:
    """One step of the row's graph; its outcome, where that was the last."""
    try:
        return await run_graph_stage(stage, row.drop(ID), row[ID].to_list(), context)
    finally:
        await context.journal.close()


def _row(store: Store, asked: RowInput) -> pl.DataFrame:
    rows = pl.DataFrame(table_of(store.get(asked.rows)))
    row = rows.slice(asked.row, 1)
    if row[ID].to_list() != [asked.id]:
        raise PartitionError(f"row {asked.row} of {asked.rows} is not the one that was asked for: a bug of Tandem's.")
    return row
