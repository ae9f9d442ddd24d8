"""Return command lines that call `tandem` from the current folder."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from pipeline.settings import current


def command() -> str:
    """Return `tandem` if that finds this installation, else its path."""
    beside = Path(sys.executable).parent / "tandem"
    found = shutil.which("tandem")
    if found and Path(found).resolve() == beside.resolve():
        return "tandem"
    relative = os.path.relpath(beside)
    return relative if len(relative) < len(str(beside)) else str(beside)


def activation() -> list[str]:
    """Return how to activate the environment; empty if it is active."""
    folder = Path(sys.executable).parent
    if command() == "tandem" or not (folder / "activate").exists():
        return []
    return [f"  source {os.path.relpath(folder / 'activate')}        then `tandem` alone works"]


def command_in(folder: Path, arguments: str) -> str:
    """Return a command line that finds the runs of a spec's folder from here."""
    there = folder.resolve() == Path.cwd().resolve() or current().home is not None
    return f"{command()} {arguments}" if there else f"cd {shlex.quote(os.path.relpath(folder))} && tandem {arguments}"
