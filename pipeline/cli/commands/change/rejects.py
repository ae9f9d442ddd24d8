"""`tandem rejects retry`: call the models again for rejected rows."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import typer

from pipeline.cli.commands.look.rejects import rejects_in
from pipeline.cli.commands.work.run import RunFlags, run_command
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.operations.retry import no_retryable, rejected_rows
from pipeline.outputs.rejects import retryable, void_all
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
    chosen = retryable(found, options.error)
    if not chosen:
        message = no_retryable(found, options.error)
        if screen.json:
            rejected = rejected_rows(found, options.error)
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
