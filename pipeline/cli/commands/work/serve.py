"""`tandem dev` and `tandem worker`: processes that work until they are told to stop. SIGTERM drains."""

import asyncio
import contextlib
import os
import signal
from functools import partial
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.cli.screen.console import Screen
from pipeline.client import known_pipelines
from pipeline.client.connection import Connection, connect, log_to_python
from pipeline.embedded import notes
from pipeline.embedded.dev import DEV_LOCK
from pipeline.embedded.server import EmbeddedServer
from pipeline.processes import cgroup
from pipeline.processes.supervisor import Processes, workers
from pipeline.publishing import cleanup
from pipeline.settings import current, home_of, temporal_configured
from pipeline.stores import Store
from schemas.errors import TandemError, UsageError

_LOOK_EVERY_S = 1.0


def _stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; the SDK itself installs no handler."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def dev_command(port: int | None, ui_port: int | None, processes: int | None, screen: Screen) -> int:
    """The embedded server of this folder, and a worker for every pipeline that has an open run in it."""
    if temporal_configured():
        raise UsageError(
            "A Temporal is configured, and `tandem dev` is for the embedded one.",
            hint="Start a worker for it with: tandem worker, or unset TEMPORAL_ADDRESS.",
        )
    stop = _stop_on_signals()
    log_to_python()
    server = await EmbeddedServer.join(home_of(Path.cwd()), port=port, ui_port=ui_port)
    lock = notes.take(server.info.home / DEV_LOCK, patience_s=1.0)
    if lock is None:
        raise UsageError(f"`tandem dev` runs here already: {server.info.address} (UI: {server.info.ui_url}).")
    screen.result(f"Temporal: {server.info.address}")
    screen.result(f"UI: {server.info.ui_url}")
    screen.say("Working on every pipeline run from this folder, `tandem run --detach` included. Ctrl-C stops.")
    try:
        client = await Client.connect(server.info.address, data_converter=pydantic_data_converter)
        found = Connection(client, server, server.info.ui_url, True)
        async with contextlib.AsyncExitStack() as stack:
            at_work: set[str] = set()
            sweeping = asyncio.create_task(cleanup.sweep_now_and_then(partial(_sinks, Path.cwd())))
            stack.push_async_callback(_cancelled, sweeping)
            while not stop.is_set():
                for queue in await _open_queues(client) - at_work:
                    count = processes or cgroup.cores()
                    await stack.enter_async_context(workers(found, queue, Processes(count, screen.fault)))
                    at_work.add(queue)
                    screen.say(f"At work on {queue.removeprefix('tandem/')}.")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
            screen.say("Draining: rows in flight finish, the journal is flushed.")
    finally:
        os.close(lock)
        server.leave()
    return 0


def _sinks(folder: Path) -> list[Store]:
    """Those of the pipelines that this folder knows; none yet in a new one, or while its spec cannot be read."""
    try:
        return list(known_pipelines.sinks(folder).values())
    except TandemError:
        return []


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _open_queues(client: Client) -> set[str]:
    found = set()
    kinds = "WorkflowType IN ('RunWorkflow', 'ScheduledWorkflow')"
    async for execution in client.list_workflows(f"ExecutionStatus = 'Running' AND {kinds}"):
        found.add(execution.task_queue)
    return found


async def worker_command(processes: int | None, queue: str | None, screen: Screen) -> int:
    """Worker processes, by default one a core."""
    if not temporal_configured():
        raise UsageError(
            "`tandem worker` works for a configured Temporal, and none is.",
            hint="Set TEMPORAL_ADDRESS; on a laptop use `tandem dev`, or just `tandem run`.",
        )
    queue = queue or current().task_queue
    count = processes or cgroup.cores()
    stop = _stop_on_signals()
    found = Connection(await connect(), None, None, False)
    async with workers(found, queue, Processes(count, screen.fault)):
        screen.say(f"Working on the task queue {queue!r} with {count} process{'es' * (count > 1)}. SIGTERM drains.")
        await stop.wait()
        screen.say("Draining: rows in flight finish, the journal is flushed.")
    return 0
