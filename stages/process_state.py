"""Restore process-wide state that a user's code may change: locale, working directory, umask, recursion limit, signal
handlers; and redirect its writes to stdout, which is reserved for results."""

import contextlib
import locale
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
_one_at_a_time = threading.RLock()  # file descriptors are the whole process's


@contextmanager
def restoring_process_state() -> Iterator[None]:
    """Run a user's code in the block; afterwards the process state is restored."""
    with _one_at_a_time:
        state = ProcessState.now()
        try:
            with _stdout_to_stderr():
                yield
        finally:
            state.restore()


@dataclass(frozen=True)
class ProcessState:
    folder: str
    umask: int
    recursion_limit: int
    locale: str
    handlers: dict[int, Any]

    @classmethod
    def now(cls) -> Self:
        umask = _umask()
        handlers = {int(number): signal.getsignal(number) for number in _HANDLED}
        return cls(os.getcwd(), umask, sys.getrecursionlimit(), locale.setlocale(locale.LC_ALL), handlers)

    def restore(self) -> None:
        """Restore the state; signal handlers only in the main thread: other threads cannot have changed them."""
        with contextlib.suppress(OSError):  # it may have been removed
            os.chdir(self.folder)
        os.umask(self.umask)
        sys.setrecursionlimit(self.recursion_limit)
        locale.setlocale(locale.LC_ALL, self.locale)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)


def _umask() -> int:
    """Read the umask from /proc; without it, it has to be set for an instant."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o022)
        os.umask(mask)
        return mask


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr, for Python, C libraries and processes that are started in the block."""
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):  # a process without them has nothing to protect
        yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
