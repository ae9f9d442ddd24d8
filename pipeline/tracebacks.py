"""Tracebacks of bugs, kept on this machine: they may show values of rows, so nothing else may hold them."""

import socket
import tempfile
import traceback
from pathlib import Path


def keep(exc: BaseException) -> Path:
    """Write the traceback to a file of its own."""
    with tempfile.NamedTemporaryFile("w", prefix="tandem-crash-", suffix=".txt", delete=False) as file:
        traceback.print_exception(exc, file=file)
    return Path(file.name)


def keep_here(exc: BaseException) -> str:
    """The same, for readers who may be elsewhere: the file and its machine."""
    try:
        return f"{keep(exc)} on {socket.gethostname()}"
    except OSError:
        return f"the log of the worker on {socket.gethostname()}"
