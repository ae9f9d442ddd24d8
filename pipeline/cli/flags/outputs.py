"""`tandem outputs …`: names and flags."""

import asyncio
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC, duration, spec_and_key
from pipeline.cli.flags.options import Json, KeyArgument, SpecArgument
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

_HELP = "Read, check and repair what is published: ls, files, head, verify, export, gc, rollback, repair."
app = typer.Typer(help=_HELP, no_args_is_help=True)


@app.command(name="ls")
def outputs_ls(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """List what is published: one line for each partition."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import ls_command

        return await asyncio.to_thread(ls_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="files")
def outputs_files(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """List the exact objects of the committed dataset, one per line."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import files_command

        return await asyncio.to_thread(files_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="head")
def outputs_head(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="The number of rows.")] = 10,
    json: Json = False,
) -> None:
    """Show the first rows of the dataset."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import head_command

        return await asyncio.to_thread(head_command, *spec_and_key(spec, key), rows, Screen(json=json))

    go(work)


@app.command(name="verify")
def outputs_verify(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """Read everything that is published and check sizes, checksums, counts, schema and stray files."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import verify_command

        return await asyncio.to_thread(verify_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="export")
def outputs_export(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[SPEC] [KEY] FILE", help="A file in .csv, .parquet or .ndjson.")
    ],
    json: Json = False,
) -> None:
    """Write what is published, or one partition of it, to one file. CSV is safe to open in a spreadsheet."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import export_command

        return await asyncio.to_thread(export_command, arguments, Screen(json=json))

    go(work)


@app.command(name="gc")
def outputs_gc(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    older_than: Annotated[str, typer.Option(metavar="D", help="Only what is older than 12h, 7d, …")] = "1d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done; the default without --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them.")] = False,
    json: Json = False,
) -> None:
    """Remove files that no manifest names and no open run may need. Only lists them, unless --yes."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import gc_command

        if dry_run and yes:
            raise UsageError("--dry-run and --yes exclude each other.", hint="Remove one of them.")
        age = duration("--older-than", older_than)
        return await asyncio.to_thread(gc_command, *spec_and_key(spec, key), age, yes, Screen(json=json))

    go(work)


@app.command(name="rollback")
def outputs_rollback(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    to: Annotated[int | None, typer.Option(min=1, metavar="N", help="The generation; default: the last one.")] = None,
    json: Json = False,
) -> None:
    """Publish an earlier generation of a partition again, without any model call."""

    async def work() -> int:
        from pipeline.cli.commands.change.outputs import rollback_command

        return await asyncio.to_thread(rollback_command, *spec_and_key(spec, key), to, Screen(json=json))

    go(work)


@app.command(name="repair")
def outputs_repair(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done; the default without --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Repair it.")] = False,
    json: Json = False,
) -> None:
    """Rebuild Tandem's own damaged files, and publish partitions with damaged files again from the journal."""

    async def work() -> int:
        from pipeline.cli.commands.change.outputs import repair_command

        if dry_run and yes:
            raise UsageError("--dry-run and --yes exclude each other.", hint="Remove one of them.")
        return await repair_command(*spec_and_key(spec, key), yes, Screen(json=json))

    go(work)
