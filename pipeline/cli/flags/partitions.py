"""`tandem partitions …`: names and flags."""

import asyncio
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC, spec_and_key
from pipeline.cli.flags.options import Json, KeyArgument, SpecArgument
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen

app = typer.Typer(
    help="See what is published of each partition, and how its last attempt ended: list, show.", no_args_is_help=True
)


@app.command(name="list")
def partitions_list(
    spec: SpecArgument = DEFAULT_SPEC,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS", help="Only partitions with this status (repeatable): missing, stale, failed, gone, …"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List partitions: what is published, how the last attempt ended, what a run would do and why."""

    async def work() -> int:
        from pipeline.cli.commands.look.partitions import list_command

        return await asyncio.to_thread(list_command, spec, list(status or ()), Screen(json=json))

    go(work)


@app.command(name="show")
def partitions_show(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """Show one partition: what is published, its last attempt, rows that changed, its generations."""

    async def work() -> int:
        from pipeline.cli.commands.look.partitions import show_command

        return await asyncio.to_thread(show_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)
