"""How to call `tandem` from where the reader stands."""

import os
import shutil
import sys
from pathlib import Path


def command() -> str:
    """`tandem` where that finds this installation, else its path."""
    beside = Path(sys.executable).parent / "tandem"
    found = shutil.which("tandem")
    if found and Path(found).resolve() == beside.resolve():
        return "tandem"
    relative = os.path.relpath(beside)
    return relative if len(relative) < len(str(beside)) else str(beside)


def activation() -> list[str]:
    """How to activate the environment, where it is not."""
    folder = Path(sys.executable).parent
    if command() == "tandem" or not (folder / "activate").exists():
        return []
    return [f"  source {os.path.relpath(folder / 'activate')}        then `tandem` alone works"]
