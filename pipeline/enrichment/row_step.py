"""One row of a stage whose nodes are activities (`placement: node`), one step of its graph at a time."""

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
    """Run one step of the row's graph; return its outcome if that was the last."""
    try:
        return await run_graph_stage(stage, row.drop(ID), row[ID].to_list(), context)
    finally:
        await context.journal.close()


def _row(store: Store, request: RowInput) -> pl.DataFrame:
    rows = pl.DataFrame(table_of(store.get(request.rows)))
    row = rows.slice(request.row, 1)
    if row[ID].to_list() != [request.id]:
        raise PartitionError(f"row {request.row} of {request.rows} is not the requested one: a bug of Tandem's.")
    return row
