"""A fork server that rests: it waits for the ends of its children, and reports them.

A server that has forked its children holds all that they hold, and by and by in pages of its own: 35 MB. So it becomes
this program, with the same pid, children and socket, of 4 MB; and a whole server again when the command writes to it.
It imports only what an interpreter has at its start anyway, or nearly so.
"""

import contextlib
import os
import select
import signal
import sys
from typing import NoReturn


def rest(end: int, boot: list[str]) -> NoReturn:
    """Report ends of children at a socket. Becomes the program `boot` when the command writes, and ends with it."""
    command = os.getppid()
    woken, _ = wake_at_ends()
    waiting = select.poll()
    waiting.register(end, select.POLLIN)
    waiting.register(woken, select.POLLIN)
    report_ends(end)  # of children that ended as this program began
    while True:
        ready = dict(waiting.poll())
        if ready.get(end, 0) & select.POLLHUP or os.getppid() != command:
            os._exit(0)  # the command is gone, and so are we and our children
        if woken in ready:
            take_wakes(woken)
        report_ends(end)
        if end in ready:
            os.execv(boot[0], boot)


def wake_at_ends() -> tuple[int, int]:
    """Return both ends of a pipe, of which the first can be read when a child has ended."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return woken, wake


def take_wakes(woken: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(woken, 4096)


def report_ends(end: int) -> None:
    """Report the children that have ended, each with its exit status (as of `os.waitstatus_to_exitcode`)."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return
        if ended is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ended.si_pid, signal.SIGKILL)  # before it is reaped: until then the number is its own
        _, status = os.waitpid(ended.si_pid, 0)
        report(end, f"ended {ended.si_pid} {os.waitstatus_to_exitcode(status)}")


def report(end: int, line: str) -> None:
    """Write a line to the command; ends with it."""
    try:
        os.write(end, f"{line}\n".encode())
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    rest(int(sys.argv[1]), sys.argv[2:])
