"""Retry the rest of a run: failed or cancelled partitions, or rejected rows."""

import asyncio

import polars as pl

from pipeline.client.connection import Connection
from pipeline.client.open_runs import open_run
from pipeline.outputs.rejects import Rejects, all_rejects, classes, retryable, void_all
from pipeline.runs.retry_selection import Only, to_retry
from pipeline.stores import Store
from schemas.errors import UsageError
from schemas.plan import RunRequest, Selection


async def retry_selection(
    connection: Connection | None, store: Store, request: RunRequest, only: Only
) -> Selection | None:
    """Return the selection of a retry; None if nothing is left. Rejects are voided, so that they are called for again.
    Raises UsageError while the run is open."""
    if connection is not None and await open_run(connection.client, store, request) is not None:
        raise UsageError(
            f"The run {request.run!r} has not ended.", hint=f"Follow it with: tandem runs watch {request.run}"
        )
    keys = await asyncio.to_thread(to_retry, store, request, only)
    if only == "rejects":
        rejects_of_run = await asyncio.to_thread(_rejects_of, store, keys)
        await void_all(store, rejects_of_run)
        keys = [rejects.partition for rejects in rejects_of_run]
    if not keys:
        return None
    everything = only == "rejects" or request.selection.reprocess == "all"
    return Selection(partitions=tuple(keys), reprocess="all" if everything else "stale")


def no_retryable(found: list[Rejects], error: str | None) -> str:
    """Return the sentence for rejects of which none (of a class) would be called for again."""
    suffix = f" with {error}" if error else ""
    rejected = rejected_rows(found, error)
    if rejected:
        rows = f"{rejected:,} row{'s' * (rejected != 1)}"
        return f"Rejected{suffix}: {rows}, none because of a model's answer: fix the source or the spec."
    others = sorted({str(line["error"]) for rejects in found for line in classes(rejects)}) if error else []
    return f"No rows are rejected{suffix}." + (f" There are: {', '.join(others)}." if others else "")


def rejected_rows(found: list[Rejects], error: str | None) -> int:
    """Return the number of rejected rows (of a class)."""
    condition = pl.lit(value=True) if error is None else pl.col("error") == error
    return sum(rejects.rows.filter(condition).height for rejects in found)


def _rejects_of(store: Store, partitions: list[str]) -> list[Rejects]:
    return retryable(rejects for key in partitions for rejects in all_rejects(store, key))
