"""`tandem dev` and `tandem worker`: processes that work until they are stopped. SIGTERM drains."""

import asyncio
import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from temporalio.client import Client

from pipeline.cli.commands.look.ui import UiFlags, is_installed, page
from pipeline.cli.commands.stopping import stop_on_signals
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
from pipeline.workflows.payloads import JSON_MESSAGES
from schemas.errors import TandemError, UsageError

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class DevPorts:
    """The ports of `tandem dev`: Temporal's, its UI's and the page's; None: any free one."""

    temporal: int | None = None
    ui: int | None = None
    page: int | None = None


async def dev_command(ports: DevPorts, processes: int | None, screen: Screen) -> int:
    """Run the embedded server of this folder, a worker for every pipeline that has an open run, and the page."""
    if temporal_configured():
        raise UsageError(
            "`tandem dev` starts the embedded Temporal, but another Temporal is configured.",
            hint="Start a worker for that one with `tandem worker`, or unset TEMPORAL_ADDRESS.",
        )
    stop = stop_on_signals()
    log_to_python()
    server = await EmbeddedServer.join(home_of(Path.cwd()), port=ports.temporal, ui_port=ports.ui)
    lock = notes.take(server.info.home / DEV_LOCK, patience_s=1.0)
    if lock is None:
        raise UsageError(f"`tandem dev` runs here already: {server.info.address} (UI: {server.info.ui_url}).")
    screen.result(f"Temporal: {server.info.address}")
    screen.result(f"UI: {server.info.ui_url}")
    screen.note("Working on every pipeline run from this folder, `tandem run --detach` included. Ctrl-C stops.")
    try:
        client = await Client.connect(server.info.address, data_converter=JSON_MESSAGES)
        connection = Connection(client, server, server.info.ui_url, True)
        async with contextlib.AsyncExitStack() as stack:
            await _serve_page(ports.page, stack, screen)
            queues: set[str] = set()
            sweep = asyncio.create_task(cleanup.sweep_periodically(partial(_sinks, Path.cwd())))
            stack.push_async_callback(_cancelled, sweep)
            while not stop.is_set():
                for queue in await _open_queues(client) - queues:
                    count = processes or cgroup.cores()
                    await stack.enter_async_context(workers(connection, queue, Processes(count, screen.fault)))
                    queues.add(queue)
                    screen.note(f"Working on {queue.removeprefix('tandem/')}.")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await stop.wait()
            screen.note("Draining: rows in flight finish, the journal is flushed.")
    finally:
        os.close(lock)
        server.leave()
    return 0


async def _serve_page(port: int | None, stack: contextlib.AsyncExitStack, screen: Screen) -> None:
    """Serve the page too, where its extra is installed. A page that cannot be served is no reason not to work."""
    if not is_installed():
        screen.note("The page for people: pip install 'tandem-pipeline[ui]'")
        return
    try:
        screen.result(f"Page: {await stack.enter_async_context(page(UiFlags(port=port)))}")
    except TandemError as exc:
        screen.fault(f"The page is not served: {exc.message} {exc.hint or ''}".rstrip())


def _sinks(folder: Path) -> list[Store]:
    """Return the sinks of the pipelines known in this folder; none if it is new or a spec cannot be read."""
    try:
        return list(known_pipelines.sinks(folder).values())
    except TandemError:
        return []


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _open_queues(client: Client) -> set[str]:
    queues = set()
    types = "WorkflowType IN ('RunWorkflow', 'ScheduledWorkflow')"
    async for execution in client.list_workflows(f"ExecutionStatus = 'Running' AND {types}"):
        queues.add(execution.task_queue)
    return queues


async def worker_command(processes: int | None, queue: str | None, screen: Screen) -> int:
    """Run worker processes, by default one per core."""
    if not temporal_configured():
        raise UsageError(
            "`tandem worker` needs a configured Temporal, but TEMPORAL_ADDRESS is not set.",
            hint="Set TEMPORAL_ADDRESS; on a laptop use `tandem dev`, or only `tandem run`.",
        )
    queue = queue or current().task_queue
    count = processes or cgroup.cores()
    stop = stop_on_signals()
    connection = Connection(await connect(), None, None, False)
    async with workers(connection, queue, Processes(count, screen.fault)):
        screen.note(f"Working on the task queue {queue!r} with {count} process{'es' * (count > 1)}. SIGTERM drains.")
        await stop.wait()
        screen.note("Draining: rows in flight finish, the journal is flushed.")
    return 0
