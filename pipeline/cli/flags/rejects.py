"""`tandem rejects …`: names and flags."""

import asyncio
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC, spec_and_key
from pipeline.cli.flags.options import (
    Json,
    KeyArgument,
    Metrics,
    MetricsLinger,
    Processes,
    Quiet,
    SpecArgument,
    Verbose,
    Yes,
)
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen

app = typer.Typer(help="See which rows were rejected and why, and retry them: ls, show, retry.", no_args_is_help=True)


@app.command(name="ls")
def rejects_ls(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """List rejected rows by error class, each with an example."""

    async def work() -> int:
        from pipeline.cli.commands.look.rejects import ls_command

        return await asyncio.to_thread(ls_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="show")
def rejects_show(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    row: Annotated[str | None, typer.Option(metavar="VALUE", help="Only the row with this key.")] = None,
    json: Json = False,
) -> None:
    """Show rejected rows, the reason, and the model's answer."""

    async def work() -> int:
        from pipeline.cli.commands.look.rejects import show_command

        return await asyncio.to_thread(show_command, *spec_and_key(spec, key), row, Screen(json=json))

    go(work)


@app.command(name="retry")
def rejects_retry(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    error: Annotated[str | None, typer.Option(metavar="CLASS", help="Only rejects of this class.")] = None,
    yes: Yes = False,
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Call the models again for rejected rows only; publishes a new generation with the rows that now succeed."""

    from pipeline.cli.commands.change.rejects import RetryOptions, retry_command

    async def work() -> int:
        path, partition = spec_and_key(spec, key)
        options = RetryOptions(spec=path, key=partition, error=error, yes=yes, processes=processes)
        return await retry_command(options, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger, quiet))
