"""`tandem forget`: its name and flags."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC
from pipeline.cli.flags.options import Json, Quiet, Verbose, Yes
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen


def forget(
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="ROW…", help="The key's value; name=value, … of several columns.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="A file with a ROW on each line.")
    ] = None,
    spec: Annotated[Path, typer.Option("--spec", metavar="SPEC", help="The pipeline's YAML file.")] = DEFAULT_SPEC,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove rows everywhere, by their key, and leave a receipt.

    From data, history, rejects, journals, snapshots, staged files and reports; partitions are published anew for 0
    calls. Given again after a kill, it finishes; without a ROW it finishes what a killed command began.
    """

    async def work() -> int:
        from pipeline.cli.commands.change.forget import ForgetOptions, forget_command

        options = ForgetOptions(spec=spec, rows=tuple(rows or ()), from_file=from_file, yes=yes)
        return await forget_command(options, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose)
