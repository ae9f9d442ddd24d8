"""`tandem runs …`: names and flags."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipeline.cli.arguments import seconds
from pipeline.cli.flags.options import (
    Json,
    MaxCost,
    Metrics,
    MetricsLinger,
    Processes,
    Quiet,
    RunArgument,
    Verbose,
    WatchTimeout,
)
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.runs.retry_selection import Only

app = typer.Typer(
    help="Look at runs and control them: list, show, watch, pause, resume, cancel, retry, set.", no_args_is_help=True
)


@app.command(name="list")
def runs_list(json: Json = False) -> None:
    """List all runs of the pipelines here, newest first."""

    async def work() -> int:
        from pipeline.cli.commands.look.run_list import list_command

        return await list_command(Screen(json=json))

    go(work)


@app.command(name="show")
def runs_show(run: RunArgument = None, json: Json = False) -> None:
    """Show the report of a run; by default of the latest."""

    async def work() -> int:
        from pipeline.cli.commands.look.runs import show_command

        return await show_command(run, Screen(json=json))

    go(work)


@app.command(name="watch")
def runs_watch(
    run: RunArgument = None,
    watch_timeout: WatchTimeout = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a run to its end. Ctrl-C stops following, not the run."""

    async def work() -> int:
        from pipeline.cli.commands.look.runs import watch_command

        return await watch_command(run, seconds(watch_timeout), Screen(json=json, quiet=quiet))

    go(work)


@app.command(name="pause")
def runs_pause(
    run: RunArgument = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason, shown by `runs show`.")] = "paused by hand",
    json: Json = False,
) -> None:
    """Start nothing new in a run until it is resumed; running batches finish."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import pause_command

        return await pause_command(run, reason, Screen(json=json))

    go(work)


@app.command(name="resume")
def runs_resume(
    run: RunArgument = None,
    max_cost: MaxCost = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while the run is paused.")] = False,
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Let a run go on, with a higher budget if given. If no worker runs it, this command does."""

    from pipeline.cli.commands.change.resume import resume_command

    async def work() -> int:
        return await resume_command(run, max_cost, Screen(json=json, quiet=quiet), wait=wait, processes=processes)

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger, quiet))


@app.command(name="cancel")
def runs_cancel(run: RunArgument = None, json: Json = False) -> None:
    """End a run: what is published stays, nothing more is published."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import cancel_command

        return await cancel_command(run, Screen(json=json))

    go(work)


@app.command(name="retry")
def runs_retry(
    run: RunArgument = None,
    only: Annotated[
        str, typer.Option(metavar="failed|cancelled|rejects", help="The part of the run to try again.")
    ] = "failed",
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the failed, cancelled or rejected parts of a run again, with that run's spec."""

    from pipeline.cli.commands.change.resume import retry_command

    async def work() -> int:
        if only not in ("failed", "cancelled", "rejects"):
            raise UsageError(f"--only {only}: not one of failed, cancelled, rejects.")
        return await retry_command(run, cast("Only", only), processes, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger, quiet))


@app.command(name="set")
def runs_set(
    run: RunArgument = None,
    max_active: Annotated[int | None, typer.Option(metavar="N", help="Partitions at the same time.")] = None,
    rows_in_flight: Annotated[
        int | None, typer.Option(metavar="N", help="Calls at the same time, per command and model.")
    ] = None,
    max_cost: MaxCost = None,
    json: Json = False,
) -> None:
    """Change the concurrency or the budget of a live run."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import set_command
        from schemas.messages.run import SetLimits

        limits = SetLimits(partitions=max_active, rows_in_flight=rows_in_flight, max_cost_usd=max_cost)
        return await set_command(run, limits, Screen(json=json))

    go(work)
