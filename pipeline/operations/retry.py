"""Run again what a run has left: what failed, what was cancelled, what was rejected."""

import asyncio

from pipeline.client.connection import Connection
from pipeline.client.open_runs import open_run
from pipeline.outputs.rejects import Rejects, all_rejects, to_ask_again, void_all
from pipeline.runs.retry import Only, to_retry
from pipeline.stores import Store
from schemas.errors import UsageError
from schemas.plan import RunRequest, Selection


async def retry_selection(found: Connection | None, store: Store, request: RunRequest, only: Only) -> Selection | None:
    """What a retry of a run takes; None where it left nothing. Rejects are voided, so that they are asked for again.
    Raises UsageError while the run is open."""
    if found is not None and await open_run(found.client, store, request) is not None:
        raise UsageError(
            f"The run {request.run!r} has not ended.", hint=f"Follow it with: tandem runs watch {request.run}"
        )
    keys = await asyncio.to_thread(to_retry, store, request, only)
    if only == "rejects":
        chosen = await asyncio.to_thread(_rejects_of, store, keys)
        await void_all(store, chosen)
        keys = [rejects.partition for rejects in chosen]
    if not keys:
        return None
    again = only == "rejects" or request.selection.reprocess == "all"
    return Selection(partitions=tuple(keys), reprocess="all" if again else "stale")


def _rejects_of(store: Store, partitions: list[str]) -> list[Rejects]:
    return to_ask_again(found for key in partitions for found in all_rejects(store, key))
