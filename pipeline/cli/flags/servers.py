"""Flags of the commands that serve until they are stopped: dev and worker."""

from typing import Annotated

import typer

from pipeline.cli.flags.options import Metrics, MetricsLinger, Processes, Verbose
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen


def dev(
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Temporal's port.")] = None,
    ui_port: Annotated[int | None, typer.Option(metavar="PORT", help="The UI's port.")] = None,
    page_port: Annotated[int | None, typer.Option(metavar="PORT", help="The port of the page, as tandem ui.")] = None,
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    verbose: Verbose = False,
) -> None:
    """Start Temporal, its UI, a worker and the page here, until Ctrl-C."""

    from pipeline.cli.commands.work.serve import DevPorts, dev_command

    async def work() -> int:
        return await dev_command(DevPorts(port, ui_port, page_port), processes, Screen())

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger))


def worker(
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    task_queue: Annotated[str | None, typer.Option(metavar="Q", help="The task queue.")] = None,
    verbose: Verbose = False,
) -> None:
    """Work on the runs of the configured Temporal. SIGTERM drains it."""

    from pipeline.cli.commands.work.serve import worker_command

    async def work() -> int:
        return await worker_command(processes, task_queue, Screen())

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger))
