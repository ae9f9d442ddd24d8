"""Start work that workers elsewhere do, for callers that run no worker themselves."""

import asyncio
from pathlib import Path

from pipeline.client.connection import connected
from pipeline.client.run import Run
from pipeline.client.spec_file import read_spec
from pipeline.embedded.dev import dev_is_up
from pipeline.estimates.preview import decide
from pipeline.operations import control
from pipeline.operations.retry import no_retryable, retry_selection
from pipeline.operations.run import Order, prepare, refuse_held, start
from pipeline.outputs.rejects import all_rejects, retryable, void_all
from pipeline.runs import requests
from pipeline.runs.retry_selection import Only
from pipeline.settings import temporal_configured
from pipeline.stores import Store
from schemas.errors import UsageError
from schemas.plan import RunRequest, Selection


def refuse_without_worker(base: Path, command: str) -> None:
    """Raise UsageError if no worker would do the work; `command` does it with a worker of its own."""
    if not temporal_configured() and not dev_is_up(base):
        raise UsageError(
            "No worker would do this: `tandem dev` is not up in the folder of the spec, and no Temporal is configured.",
            hint=f"Start tandem dev, or run: {command}",
        )


async def retry_rejects(spec_path: Path, store: Store, partition: str | None, error: str | None) -> Run:
    """Void the answers that caused rejects, of a partition or all, of a class or all, and start a run that asks again.
    Raises UsageError if there is nothing to retry, or no worker; SpecError, StoreError."""
    command = f"tandem rejects retry {spec_path}" + (f" {partition}" if partition else "")
    refuse_without_worker(spec_path.parent, command + (f" --error {error}" if error else ""))
    found = await asyncio.to_thread(lambda: list(all_rejects(store, partition)))
    chosen = retryable(found, error)
    if not chosen:
        raise UsageError(no_retryable(found, error))
    spec, base = await asyncio.to_thread(read_spec, spec_path)
    selection = Selection(partitions=tuple(rejects.partition for rejects in chosen), reprocess="all")
    order = Order(spec=spec, base=base, selection=selection, spec_path=spec_path)
    await asyncio.to_thread(prepare, order)  # before anything is voided
    await void_all(store, chosen)
    return await start_detached(order)


async def retry_run(store: Store, request: RunRequest, only: Only) -> Run:
    """Start a run over the partitions of an ended one that failed, were cancelled, or have rejects. Raises UsageError
    if there are none, or no worker."""
    base = Path(request.base)
    refuse_without_worker(base, f"tandem runs retry {request.run} --only {only}")
    async with connected(base) as connection:
        selection = await retry_selection(connection, store, request, only)
    if selection is None:
        raise UsageError(f"The run {request.run!r} has nothing to retry with --only {only}.")
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    return await start_detached(Order(spec=spec, base=base, selection=selection))


async def resume(store: Store, request: RunRequest) -> None:
    """Resume a run that is paused, or that was killed. Raises UsageError if no worker would work on it."""
    base = Path(request.base)
    refuse_without_worker(base, f"tandem runs resume {request.run}")
    async with connected(base) as connection:
        if await control.resume(connection, store, request):
            return
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    await start_detached(Order(spec=spec, base=base, selection=request.selection, name=request.run))


async def start_detached(order: Order) -> Run:
    """Start or join a run. Raises UsageError, SpecError, NameTaken, ConnectionFailed, StoreError."""
    ready = await asyncio.to_thread(prepare, order)
    decided = await asyncio.to_thread(decide, ready, order.selection)
    await refuse_held(ready, order, decided.to_run)
    async with connected(order.base) as connection:
        return await start(connection, ready, order, decided.to_run)
