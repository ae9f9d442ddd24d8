"""`tandem outputs …`: names and flags."""

import asyncio
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC, duration, spec_and_key
from pipeline.cli.flags.options import Json, KeyArgument, SpecArgument
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

_HELP = "Read, check and mend what is published: ls, files, head, verify, export, gc, rollback, repair."
app = typer.Typer(help=_HELP, no_args_is_help=True)


@app.command(name="ls")
def outputs_ls(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """What is published: a line a partition."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import ls_command

        return await asyncio.to_thread(ls_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="files")
def outputs_files(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """The exact objects of the committed dataset, one a line."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import files_command

        return await asyncio.to_thread(files_command, *spec_and_key(spec, key), Screen(json=json))

    go(work)


@app.command(name="head")
def outputs_head(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="How many rows.")] = 10,
    json: Json = False,
) -> None:
    """The first rows of the dataset."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import head_command

        return await asyncio.to_thread(head_command, *spec_and_key(spec, key), rows, Screen(json=json))

    go(work)


@app.command(name="verify")
def outputs_verify(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """Read everything that is published again: sizes, checksums, counts, schema, and what does not belong there."""

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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; so it does without --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it.")] = False,
    json: Json = False,
) -> None:
    """Remove what no manifest names and no open run may want. Tells what that is, unless --yes."""

    async def work() -> int:
        from pipeline.cli.commands.look.outputs import gc_command

        if dry_run and yes:
            raise UsageError("--dry-run and --yes: which of the two?", hint="Leave one out.")
        age = duration("--older-than", older_than)
        return await asyncio.to_thread(gc_command, *spec_and_key(spec, key), age, yes, Screen(json=json))

    go(work)


@app.command(name="rollback")
def outputs_rollback(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    to: Annotated[int | None, typer.Option(min=1, metavar="N", help="Which generation; default: the last one.")] = None,
    json: Json = False,
) -> None:
    """Publish an earlier generation of a partition again, without a call."""

    async def work() -> int:
        from pipeline.cli.commands.change.outputs import rollback_command

        return await asyncio.to_thread(rollback_command, *spec_and_key(spec, key), to, Screen(json=json))

    go(work)


@app.command(name="repair")
def outputs_repair(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; so it does without --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Mend it.")] = False,
    json: Json = False,
) -> None:
    """Make damaged files of Tandem's again, and publish partitions with damaged files anew, from the journal."""

    async def work() -> int:
        from pipeline.cli.commands.change.outputs import repair_command

        if dry_run and yes:
            raise UsageError("--dry-run and --yes: which of the two?", hint="Leave one out.")
        return await repair_command(*spec_and_key(spec, key), yes, Screen(json=json))

    go(work)
