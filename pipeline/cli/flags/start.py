"""Flags of the commands of a first day that work on nothing yet: demo, init, schema."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.flags.options import Json, Metrics, MetricsLinger, Processes, Quiet, Verbose
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen


def demo(
    rows: Annotated[int, typer.Option(min=1, max=2000, metavar="N", help="The number of bundled rows.")] = 2000,
    dir: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the example and its output.")] = Path(
        "tandem-demo"
    ),
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the bundled example. Needs no key and no set-up."""

    from pipeline.cli.commands.work.demo import demo_command

    async def work() -> int:
        return await demo_command(rows, dir, processes, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="surely", metrics=MetricsFlags(metrics, metrics_linger, quiet))


def init(
    dir: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the pipeline.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Your table: CSV, NDJSON or Parquet.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="provider:name; by default OpenAI where its key is set.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a small commented pipeline that runs as it is."""

    async def work() -> int:
        from pipeline.cli.commands.work.init import init_command

        return await asyncio.to_thread(init_command, dir, from_file, model, Screen(quiet=quiet))

    go(work)


def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from schemas.json_schema import schema_text
    from stages.options import OPTIONS

    print(schema_text(OPTIONS), end="")
