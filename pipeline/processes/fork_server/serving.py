"""A fork server's own process: it forks children, with all that they import, and reports how they ended."""

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from pipeline import memory
from pipeline.processes.child.parent_death import die_with_parent
from pipeline.processes.fork_server import resting

ChildWork = Callable[[socket.socket, int], int]  # gets a channel and a table, returns the exit status
START, REST = b"s", b"r"  # one byte each, as a reading of more could take two messages at once
_DESCRIPTORS = 16
_BOOT = "import sys; from pipeline.processes.fork_server import serving; serving.boot(int(sys.argv[1]), sys.argv[2])"
_PATH = "PYTHONPATH"


def boot_command(end: int) -> list[str]:
    """Return the command line of a server in an interpreter of its own. It needs `boot_environment`."""
    return [sys.executable, "-c", _BOOT, str(end), os.environ.get(_PATH, "")]


def boot_environment() -> dict[str, str]:
    """Return an environment in which modules are found where this process finds them."""
    return {**os.environ, _PATH: os.pathsep.join(path for path in sys.path if path)}


def boot(end: int, path: str) -> NoReturn:
    """Run the server in an interpreter of its own. `path`: the user's PYTHONPATH, which processes of nodes are to
    have, whether the process of their row was forked before or after a rest."""
    os.environ.pop(_PATH, None)
    if path:
        os.environ[_PATH] = path
    memory.configure_allocators()
    memory.hold_gc()
    work_of_children()
    serve(socket.socket(fileno=end), os.getppid())


def serve(end: socket.socket, command: int) -> NoReturn:
    """Fork, wait and report, until the command is gone."""
    die_with_parent(command)
    if os.getsid(0) != os.getpid():
        os.setsid()  # a terminal's Ctrl-C is the command's to handle
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # stdout is the command's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    woken, wake = resting.wake_at_ends()
    while True:
        readable, _, _ = select.select([end.fileno(), woken], [], [])
        if woken in readable:
            resting.take_wakes(woken)
        resting.report_ends(end.fileno())
        if end.fileno() in readable:
            _obey(end, (woken, wake, null))


def run_process(work: Callable[[], object]) -> NoReturn:
    """Run work as a process of its own, which never returns into the code that forked it."""
    import traceback

    code = 70
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, this process ends here
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def work_of_children(uses: Iterable[str] = ("extract",)) -> ChildWork:
    """Import what children run: once, for all of them share it. A command that often starts none (`plan`, `check`)
    leaves it to the server: it would wait a second for Temporal's worker. `uses`: of the stages that they build."""
    import numpy.ma  # noqa: F401  which NumPy and Polars import in their first calls

    from pipeline.processes.child import main
    from pipeline.processes.child.event_loop import import_loop
    from stages.limits import prices
    from stages.registry import import_stages

    import_loop()
    prices.load()
    import_stages(uses)
    memory.start_gc()
    return main.run


def _obey(end: socket.socket, inherited: tuple[int, ...]) -> None:
    try:
        message, descriptors, _, _ = socket.recv_fds(end, len(START), _DESCRIPTORS)
    except ConnectionResetError:  # with reports of ours that it did not read
        message, descriptors = b"", []
    if message == START:
        _start(end, inherited, descriptors)
    elif message == REST:
        _rest(end)
    else:
        os._exit(0)  # the command is gone, and so are we and our children


def _start(end: socket.socket, inherited: tuple[int, ...], descriptors: list[int]) -> None:
    work = work_of_children()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        run_process(lambda: _become(work, end, inherited, descriptors, server))
    for descriptor in descriptors:
        os.close(descriptor)
    resting.report(end.fileno(), f"started {pid}")


def _rest(end: socket.socket) -> NoReturn:
    """Become the program that rests. Its interpreter is told to look for nothing outside the standard library."""
    os.set_inheritable(end.fileno(), True)
    program = [sys.executable, "-I", "-S", resting.__file__, str(end.fileno())]
    os.execve(sys.executable, [*program, *boot_command(end.fileno())], boot_environment())


def _become(
    work: ChildWork, end: socket.socket, inherited: tuple[int, ...], descriptors: list[int], server: int
) -> None:
    """Become a child."""
    die_with_parent(server)
    os.setsid()  # with a group of its own, so that its leftover children can be found
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    end.close()
    for inherited_descriptor in inherited:
        os.close(inherited_descriptor)
    output, errors, channel, table = descriptors
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os._exit(work(socket.socket(fileno=channel), table))
