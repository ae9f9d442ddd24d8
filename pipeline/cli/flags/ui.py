"""Flags of `tandem ui`."""

from typing import Annotated

import typer

from pipeline.cli.flags.options import Quiet, Verbose
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen


def ui(
    sinks: Annotated[
        list[str] | None,
        typer.Argument(metavar="SINK…", help="Folders or s3://… to show; by default those known here."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, metavar="PORT", help="By default 8420, or a free one.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the URL, open no browser.")] = False,
    acts: Annotated[
        bool | None,
        typer.Option(
            "--allow-acts/--read-only", help="Pause, retry, answer from the page; by default only on this machine."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name that leads to the page (repeatable)."),
    ] = None,
    reviewer_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="A trusted proxy's header with the name of the person.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Look at rows, runs, costs and questions in the browser, until Ctrl-C."""

    from pipeline.cli.commands.look.ui import UiFlags, ui_command

    async def work() -> int:
        flags = UiFlags(
            sinks=tuple(sinks or ()),
            host=host,
            port=port,
            acts=acts,
            allowed_hosts=tuple(allowed_host or ()),
            reviewer_header=reviewer_header,
            open=not no_open,
        )
        return await ui_command(flags, Screen(quiet=quiet))

    go(work, verbose=verbose)
