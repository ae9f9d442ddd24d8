"""`tandem schedule …`: names and flags."""

from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC
from pipeline.cli.flags.options import Json, SpecArgument
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

app = typer.Typer(
    help="Run at set times: apply, list, show, pause, unpause, trigger, next, delete.", no_args_is_help=True
)
Target = Annotated[str, typer.Argument(metavar="SPEC", help="The pipeline's YAML file, or its name.")]


@app.command(name="apply")
def schedule_apply(
    spec: SpecArgument = DEFAULT_SPEC,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="'0 3 * * *'", help="The times, as Temporal's cron.")
    ] = None,
    time_zone: Annotated[str | None, typer.Option(metavar="ZONE", help="The time zone of the cron.")] = None,
    overlap_policy: Annotated[
        str | None, typer.Option(metavar="skip|buffer_one|…", help="What to do while the previous run is open.")
    ] = None,
    catchup_window: Annotated[
        str | None, typer.Option(metavar="6h", help="Make up for missed times younger than this.")
    ] = None,
    jitter: Annotated[str | None, typer.Option(metavar="5m", help="Start up to this much later, at random.")] = None,
    pause_on_failure: Annotated[bool, typer.Option("--pause-on-failure", help="Pause when a run fails.")] = False,
    when: Annotated[str, typer.Option(metavar="due|new-files", help="The partitions that a firing runs.")] = "due",
    json: Json = False,
) -> None:
    """Schedule a pipeline, or change its schedule. Defaults are the spec's `schedule:`."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import apply_command
        from pipeline.client.schedules import ScheduleFlags

        if when not in ("due", "new-files"):
            raise UsageError(f"--when {when}: not one of due, new-files.")
        flags = ScheduleFlags(
            cron=cron,
            zone=time_zone,
            overlap=overlap_policy,
            catchup=catchup_window,
            jitter=jitter,
            pause_on_failure=pause_on_failure,
            when="due" if when == "due" else "new-files",
        )
        return await apply_command(spec, flags, Screen(json=json))

    go(work)


@app.command(name="list")
def schedule_list(json: Json = False) -> None:
    """List all schedules of the server."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import list_command

        return await list_command(Screen(json=json))

    go(work)


@app.command(name="show")
def schedule_show(spec: Target = str(DEFAULT_SPEC), json: Json = False) -> None:
    """Show a schedule: its settings, its next times, and the runs it started last."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import show_command

        return await show_command(spec, Screen(json=json))

    go(work)


@app.command(name="pause")
def schedule_pause(
    spec: Target = str(DEFAULT_SPEC),
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason, shown by `schedule show`.")
    ] = "paused by hand",
    json: Json = False,
) -> None:
    """Start nothing until it is unpaused. Open runs go on."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import pause_command

        return await pause_command(spec, reason, Screen(json=json))

    go(work)


@app.command(name="unpause")
def schedule_unpause(spec: Target = str(DEFAULT_SPEC), json: Json = False) -> None:
    """Let a paused schedule go on."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import unpause_command

        return await unpause_command(spec, Screen(json=json))

    go(work)


@app.command(name="trigger")
def schedule_trigger(spec: Target = str(DEFAULT_SPEC), json: Json = False) -> None:
    """Start the scheduled run now."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import trigger_command

        return await trigger_command(spec, Screen(json=json))

    go(work)


@app.command(name="next")
def schedule_next(
    spec: Target = str(DEFAULT_SPEC),
    count: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="The number of times.")] = 5,
    json: Json = False,
) -> None:
    """Show the next times of a schedule."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import next_command

        return await next_command(spec, count, Screen(json=json))

    go(work)


@app.command(name="delete")
def schedule_delete(spec: Target = str(DEFAULT_SPEC), json: Json = False) -> None:
    """Delete a schedule. Open runs go on."""

    async def work() -> int:
        from pipeline.cli.commands.change.schedule import delete_command

        return await delete_command(spec, Screen(json=json))

    go(work)
