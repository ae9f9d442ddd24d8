"""Keep tracebacks of bugs on this machine only: they may show values of rows."""

import socket
import tempfile
import traceback
from pathlib import Path


def keep(exc: BaseException) -> Path:
    """Write the traceback to a new file. Return its path."""
    with tempfile.NamedTemporaryFile("w", prefix="tandem-crash-", suffix=".txt", delete=False) as file:
        traceback.print_exception(exc, file=file)
    return Path(file.name)


def keep_here(exc: BaseException) -> str:
    """Write the traceback. Return its file and machine, for readers on other machines."""
    try:
        return f"{keep(exc)} on {socket.gethostname()}"
    except OSError:
        return f"the log of the worker on {socket.gethostname()}"
