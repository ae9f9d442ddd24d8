"""`tandem rejects …`: show rows that were not enriched and the reason, and retry them."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import typer

from pipeline.cli.commands.work.run import RunFlags, run_command
from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.preflight import preflight, read_spec, sink_of
from pipeline.outputs import scan
from pipeline.outputs.rejects import Rejects, all_rejects, classes, retryable, void_all
from pipeline.stores import Store
from schemas.errors import UsageError
from schemas.plan import Selection


def _found(path: Path, key: str | None) -> tuple[Store, list[Rejects]]:
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    found = list(all_rejects(store, key))
    if key is not None and not found and key not in scan.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint=f"See: {command()} rejects ls {path}")
    return store, found


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """List rejects by error class, with an example and the next command."""
    _, found = _found(path, key)
    grouped = [line for rejects in found for line in classes(rejects)]
    if screen.json:
        screen.document(grouped)
        return 0
    for line in grouped:
        screen.result(f"{line['partition']}  {line['rows']:,} × {line['stage']}: {line['error']}: {line['message']}")
        screen.result(f"    for example {line['key']}")
    if not grouped:
        screen.note("No rows are rejected.")
    else:
        screen.note(f"See one: {command()} rejects show {path} --row VALUE   Retry: {command()} rejects retry {path}")
    return 0


def show_command(path: Path, key: str | None, row: str | None, screen: Screen) -> int:
    """Show the rejected rows; `row` is a value of the key, or a row id."""
    _, found = _found(path, key)
    rows: list[dict[str, object]] = []
    for rejects in found:
        chosen = rejects.rows
        if row is not None:
            quoted = pl.col("key").str.contains(f'"{row}"', literal=True) | pl.col("key").str.contains(
                f":{row}[,}}]", literal=False
            )
            chosen = chosen.filter(quoted | (pl.col("row_id") == row))
        rows += [{"partition": rejects.partition, **line} for line in chosen.to_dicts()]
    if row is not None and not rows:
        raise UsageError(f"--row {row}: no rejected row has that key.", hint=f"See: {command()} rejects ls {path}")
    if screen.json:
        screen.document(rows)
        return 0
    for line in rows[:100]:
        screen.result(f"{line['partition']}  {line['key']}")
        screen.result(f"    {line['stage']}: {line['error']} after {line['attempts']} call(s): {line['message']}")
        if line["raw_answer"]:
            screen.result(f"    answered: {str(line['raw_answer'])[:500]}")
    return 0


@dataclass(frozen=True)
class RetryOptions:
    spec: Path
    key: str | None
    error: str | None
    yes: bool
    processes: int | None = None


async def retry_command(options: RetryOptions, screen: Screen) -> int:
    """Void the answers that caused the rejects and run their partitions again: only those rows cost anything."""
    store, found = await asyncio.to_thread(_found, options.spec, options.key)
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
