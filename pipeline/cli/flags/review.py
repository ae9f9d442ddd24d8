"""`tandem review …`: names and flags."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC
from pipeline.cli.flags.options import Json, SpecArgument
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen

app = typer.Typer(help="Answer rows that wait for a person: ls, show, answer, export, import.", no_args_is_help=True)
Partition = Annotated[str | None, typer.Option("--partition", metavar="KEY", help="Only this partition.")]
Row = Annotated[
    str,
    typer.Option(
        metavar="VALUE", help="The question's id, or the row's key (a value of it) or id.", show_default=False
    ),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A file that ends in .json or .csv.")]


@app.command(name="ls")
def review_ls(spec: SpecArgument = DEFAULT_SPEC, partition: Partition = None, json: Json = False) -> None:
    """List open questions, by partition and stage."""

    async def work() -> int:
        from pipeline.cli.commands.change.review import ls_command

        return await asyncio.to_thread(ls_command, spec, partition, Screen(json=json))

    go(work)


@app.command(name="show")
def review_show(row: Row, spec: SpecArgument = DEFAULT_SPEC, partition: Partition = None, json: Json = False) -> None:
    """Show a row that waits: its values, its question, and the schema of an answer."""

    async def work() -> int:
        from pipeline.cli.commands.change.review import show_command

        return await asyncio.to_thread(show_command, spec, partition, row, Screen(json=json))

    go(work)


@app.command(name="answer")
def review_answer(
    row: Row,
    answer: Annotated[
        str, typer.Option(metavar="TEXT_OR_JSON", help="JSON if it parses as JSON, else text.", show_default=False)
    ],
    spec: SpecArgument = DEFAULT_SPEC,
    partition: Partition = None,
    text: Annotated[bool, typer.Option("--text", help="Read the answer as text, even if it is JSON.")] = False,
    json: Json = False,
) -> None:
    """Answer a row. The next run publishes it; a run that waits for it goes on."""

    async def work() -> int:
        from pipeline.cli.commands.change.review import AnswerOptions, answer_command

        options = AnswerOptions(spec=spec, key=partition, row=row, answer=answer, as_text=text)
        return await answer_command(options, Screen(json=json))

    go(work)


@app.command(name="export")
def review_export(
    file: FileArgument, spec: SpecArgument = DEFAULT_SPEC, partition: Partition = None, json: Json = False
) -> None:
    """Write the questions to a file with a column `answer` to fill in."""

    async def work() -> int:
        from pipeline.cli.commands.change.review import export_command

        return await asyncio.to_thread(export_command, *_in_order(spec, partition, file), Screen(json=json))

    go(work)


@app.command(name="import")
def review_import(
    file: FileArgument, spec: SpecArgument = DEFAULT_SPEC, partition: Partition = None, json: Json = False
) -> None:
    """Import the answers of a file, all of them or none."""

    async def work() -> int:
        from pipeline.cli.commands.change.review import import_command

        return await import_command(*_in_order(spec, partition, file), Screen(json=json))

    go(work)


def _in_order(spec: Path, partition: str | None, file: Path) -> tuple[Path, str | None, Path]:
    """Return spec, partition and file; `FILE SPEC` and `SPEC FILE` mean the same."""
    yaml = (".yaml", ".yml")
    return (file, partition, spec) if file.suffix in yaml and spec.suffix not in yaml else (spec, partition, file)
