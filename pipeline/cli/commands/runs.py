"""`tandem runs …`: names and flags."""

from typing import Annotated

import typer

from pipeline.cli.console import Screen
from pipeline.cli.options import Json, Quiet, RunArgument, WatchTimeout, seconds
from pipeline.cli.process import go

app = typer.Typer(help="Runs: list, show, watch, pause, resume, cancel.", no_args_is_help=True)


@app.command(name="list")
def runs_list(json: Json = False) -> None:
    """All runs of the pipelines here, newest first."""

    async def work() -> int:
        from pipeline.cli.runs import list_command

        return await list_command(Screen(json=json))

    go(work)


@app.command(name="show")
def runs_show(run: RunArgument = None, json: Json = False) -> None:
    """What became of a run; the latest when none is named."""

    async def work() -> int:
        from pipeline.cli.runs import show_command

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
        from pipeline.cli.runs import watch_command

        return await watch_command(run, seconds(watch_timeout), Screen(json=json, quiet=quiet))

    go(work)


@app.command(name="pause")
def runs_pause(
    run: RunArgument = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown to whoever looks.")] = "paused by hand",
) -> None:
    """Start nothing new in a run until it is resumed; batches at work finish."""

    async def work() -> int:
        from pipeline.cli.runs import signal_command

        return await signal_command(run, "pause", reason, Screen())

    go(work)


@app.command(name="resume")
def runs_resume(run: RunArgument = None) -> None:
    """Let a paused run go on."""

    async def work() -> int:
        from pipeline.cli.runs import signal_command

        return await signal_command(run, "resume", None, Screen())

    go(work)


@app.command(name="cancel")
def runs_cancel(run: RunArgument = None) -> None:
    """End a run: what is published stays, nothing more is."""

    async def work() -> int:
        from pipeline.cli.runs import cancel_command

        return await cancel_command(run, Screen())

    go(work)
