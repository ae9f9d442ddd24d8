"""`tandem outputs …`: names and flags."""

import asyncio
from typing import Annotated

import typer

from pipeline.cli.console import Screen
from pipeline.cli.options import DEFAULT_SPEC, Json, KeyArgument, SpecArgument
from pipeline.cli.process import go

app = typer.Typer(help="The published dataset: ls, files, head.", no_args_is_help=True)


@app.command(name="ls")
def outputs_ls(spec: SpecArgument = DEFAULT_SPEC, json: Json = False) -> None:
    """What is published: a line a partition."""

    async def work() -> int:
        from pipeline.cli.outputs import ls_command

        return await asyncio.to_thread(ls_command, spec, Screen(json=json))

    go(work)


@app.command(name="files")
def outputs_files(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """The exact objects of the committed dataset, one a line."""

    async def work() -> int:
        from pipeline.cli.outputs import files_command

        return await asyncio.to_thread(files_command, spec, key, Screen(json=json))

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
        from pipeline.cli.outputs import head_command

        return await asyncio.to_thread(head_command, spec, key, rows, Screen(json=json))

    go(work)
