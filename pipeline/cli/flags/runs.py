"""`tandem runs …`: names and flags."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipeline.cli.arguments import seconds
from pipeline.cli.flags.options import Json, MaxCost, Processes, Quiet, RunArgument, Verbose, WatchTimeout
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.runs.retry import Only

app = typer.Typer(
    help="Look at runs and steer them: list, show, watch, pause, resume, cancel, retry, set.", no_args_is_help=True
)


@app.command(name="list")
def runs_list(json: Json = False) -> None:
    """All runs of the pipelines here, newest first."""

    async def work() -> int:
        from pipeline.cli.commands.look.runs import list_command

        return await list_command(Screen(json=json))

    go(work)


@app.command(name="show")
def runs_show(run: RunArgument = None, json: Json = False) -> None:
    """What became of a run; the latest when none is named."""

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
    """Follow a run to its end. Interrupting this leaves the run alive."""

    async def work() -> int:
        from pipeline.cli.commands.look.runs import watch_command

        return await watch_command(run, seconds(watch_timeout), Screen(json=json, quiet=quiet))

    go(work)


@app.command(name="pause")
def runs_pause(
    run: RunArgument = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown to whoever looks.")] = "paused by hand",
    json: Json = False,
) -> None:
    """Start nothing new in a run until it is resumed; batches at work finish."""

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
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Let a run go on, under a higher budget where one is given. One that nothing works on is worked on here."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import resume_command

        return await resume_command(run, max_cost, Screen(json=json, quiet=quiet), wait=wait, processes=processes)

    go(work, verbose=verbose, works=True)


@app.command(name="cancel")
def runs_cancel(run: RunArgument = None, json: Json = False) -> None:
    """End a run: what is published stays, nothing more is."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import cancel_command

        return await cancel_command(run, Screen(json=json))

    go(work)


@app.command(name="retry")
def runs_retry(
    run: RunArgument = None,
    only: Annotated[
        str, typer.Option(metavar="failed|cancelled|rejects", help="What of the run is tried again.")
    ] = "failed",
    processes: Processes = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run again what of a run failed, was cancelled or was rejected, with that run's spec."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import retry_command

        if only not in ("failed", "cancelled", "rejects"):
            raise UsageError(f"--only {only}: not one of failed, cancelled, rejects.")
        return await retry_command(run, cast("Only", only), processes, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works=True)


@app.command(name="set")
def runs_set(
    run: RunArgument = None,
    max_active: Annotated[int | None, typer.Option(metavar="N", help="Partitions at work at once.")] = None,
    rows_in_flight: Annotated[
        int | None, typer.Option(metavar="N", help="Calls at once, per command and model.")
    ] = None,
    max_cost: MaxCost = None,
    json: Json = False,
) -> None:
    """Change how much a live run does at once, or may spend."""

    async def work() -> int:
        from pipeline.cli.commands.change.control import set_command
        from schemas.messages.run import SetLimits

        limits = SetLimits(partitions=max_active, rows_in_flight=rows_in_flight, max_cost_usd=max_cost)
        return await set_command(run, limits, Screen(json=json))

    go(work)
