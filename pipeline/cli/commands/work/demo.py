"""`tandem demo`: the bundled example, from nothing to a result."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from pipeline.cli.commands.work.run import RunFlags, run_command
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError
from schemas.plan import Selection


async def demo_command(rows: int, folder: Path, processes: int | None, screen: Screen) -> int:
    """Copy the example to a folder, run it, and show the next commands."""
    _copy(rows, folder)
    screen.note(f"The example is in {folder}: tickets.csv ({rows:,} support tickets) and tandem.yaml.")
    flags = RunFlags(spec=folder / "tandem.yaml", selection=Selection(), yes=True, processes=processes)
    code = await run_command(flags, screen)
    if code == 0:
        for text in _next(folder):
            screen.result(text)
    return code


def _copy(rows: int, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("pipeline.demo")) as bundled:
            if not (folder / "tandem.yaml").exists():
                shutil.copy(bundled / "tandem.yaml", folder / "tandem.yaml")
            if rows == 2000:
                shutil.copy(bundled / "tickets.csv", folder / "tickets.csv")
            else:
                _first_rows(bundled / "tickets.csv", folder / "tickets.csv", rows)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be written: {exc.strerror}.", hint="Name another --dir.") from exc


def _first_rows(source: Path, target: Path, rows: int) -> None:
    import polars as pl

    pl.read_csv(source, infer_schema=False, n_rows=rows).write_csv(target)


def _next(folder: Path) -> list[str]:
    from pipeline.cli.environment import activation, command

    return [
        "",
        "This was the offline model: a toy that needs no key. Try next:",
        *activation(),
        f"  {command()} run {folder}/tandem.yaml        again: nothing has changed, nothing is paid",
        f"  {command()} try {folder}/tandem.yaml        a few rows, step by step",
        f"  {command()} outputs head {folder}/tandem.yaml",
        f"  {command()} init mine --from YOUR.csv   the same for your own table",
    ]
