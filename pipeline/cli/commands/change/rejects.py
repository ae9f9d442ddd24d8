"""`tandem rejects retry`: call the models again for rejected rows."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import typer

from pipeline.cli.commands.look.rejects import rejects_in
from pipeline.cli.commands.work.run import RunFlags, run_command
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.outputs.rejects import classes, retryable, void_all
from schemas.plan import Selection


@dataclass(frozen=True)
class RetryOptions:
    spec: Path
    key: str | None
    error: str | None
    yes: bool
    processes: int | None = None


async def retry_command(options: RetryOptions, screen: Screen) -> int:
    """Void the answers that caused the rejects and run their partitions again: only those rows cost anything."""
    store, found = await asyncio.to_thread(rejects_in, options.spec, options.key)
    suffix = f" with {options.error}" if options.error else ""
    rejected = sum(rejects.rows.filter(_has_error(options.error)).height for rejects in found)
    chosen = retryable(found, options.error)
    if not chosen:
        message = f"No rows are rejected{suffix}."
        if rejected:
            rejected_rows = counted(rejected, "row")
            message = (
                f"Rejected{suffix}: {rejected_rows}, none because of a model's answer: fix the source or the spec."
            )
        elif options.error and (others := sorted({str(line["error"]) for r in found for line in classes(r)})):
            message += f" There are: {', '.join(others)}."
        if screen.json:
            screen.document({"asked_again": 0, "rejected": rejected, "message": message})
        screen.note(message)
        return 0
    await asyncio.to_thread(lambda: preflight(*read_spec(options.spec), file=options.spec))  # before anything is voided
    rows = await void_all(store, chosen)
    screen.note(f"Retrying {counted(rows, 'row')} in {counted(len(chosen), 'partition')}.")
    selection = Selection(partitions=tuple(rejects.partition for rejects in chosen), reprocess="all")
    try:
        flags = RunFlags(spec=options.spec, selection=selection, yes=options.yes, processes=options.processes)
        return await run_command(flags, screen)
    except typer.Abort:
        screen.note("The next run of their partitions retries them.")
        raise


def _has_error(error: str | None) -> pl.Expr:
    return pl.lit(value=True) if error is None else pl.col("error") == error
