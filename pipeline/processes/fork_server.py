"""A warm parent of worker processes: everything is imported once, and a further child costs milliseconds.

It is forked from the command before that has a thread, a loop or a connection, and itself only forks, waits and reports
how its children ended; so no child inherits a held lock. If it is gone (killed), a fresh interpreter replaces it.

    command ──socket──▶ fork server: "start" with descriptors ─▶ {"started": pid}
            ◀──socket──              {"ended": pid, "status": status}

It ends with the command, and children end with it, however it is killed: by PR_SET_PDEATHSIG where the kernel has it,
and by the end of their sockets everywhere.
"""

import array
import asyncio
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Self

from pipeline import memory
from pipeline.processes.child.parent_death import die_with_parent

ChildWork = Callable[[socket.socket, int], int]  # gets a channel and a table, returns the exit status
_LONGEST = 65_536
_BOOT = "import sys; from pipeline.processes import fork_server; fork_server.boot(int(sys.argv[1]))"
_servers: "list[ForkServer]" = []  # of this process; the last is the one that may be alive


def prepare(*, imports: bool = False) -> None:
    """Fork the server of this process, if it has none: its children share what is imported by now. `imports`: import
    what they need first, which most of a command's processes then hold once (`python -m tests.bench memory`). To be
    called before anything starts a thread of Python's or a loop. Does nothing if Polars has computed something in this
    process: its threads are lost in a fork, and a child would wait for them for ever."""
    if _servers or _polars_has_threads():
        return
    if imports:
        _work_of_children()
    _servers.append(ForkServer.forked())


def _polars_has_threads() -> bool:
    """True if the threads that compute for Polars were started, where the system tells. Its import starts none."""
    with contextlib.suppress(OSError):
        for thread in os.scandir("/proc/self/task"):
            with open(f"{thread.path}/comm") as name:
                if re.fullmatch(r"polars-\d+\n", name.read()):
                    return True
    return False


def current() -> "ForkServer":
    """Return the server of this process: the prepared one while it lives, else one in an interpreter of its own."""
    if not _servers or not _servers[-1].alive:
        _servers.append(ForkServer.spawned())
    return _servers[-1]


class ForkServer:
    """The command's side. `alive` until the server's process is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""
        self._starting = asyncio.Lock()
        self._started: asyncio.Future[int] | None = None
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._reading = False
        self.alive = True
        self._spawned: subprocess.Popen[bytes] | None = None

    @classmethod
    def forked(cls) -> Self:
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        command = os.getpid()
        with warnings.catch_warnings():
            # Polars has an idle thread from its import on, which holds nothing; a child does without it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_process(lambda: _serve(theirs, command, ours))
        theirs.close()
        return cls(ours)

    @classmethod
    def spawned(cls) -> Self:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno())], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
            stdout=2, env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
        theirs.close()
        server = cls(ours)
        server._spawned = process
        return server

    async def start(self, descriptors: Sequence[int]) -> tuple[int, "asyncio.Future[int]"]:
        """Start a child that has these descriptors as stdout, stderr, channel and table. Returns its pid, and a future
        of its exit status (as of `os.waitstatus_to_exitcode`). Raises OSError if the server is gone."""
        self._listen()
        async with self._starting:
            if not self.alive:
                raise ConnectionResetError("the fork server is gone")
            self._started = asyncio.get_running_loop().create_future()
            self._end.setblocking(True)
            packed = array.array("i", descriptors).tobytes()
            self._end.sendmsg([b"start"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
            self._end.setblocking(False)
            pid = await self._started
            return pid, self._ended[pid]

    def close(self) -> None:
        """Let the server end; its children end with it."""
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._end)
            self._reading = False
        self._end.close()
        self.alive = False
        if self._spawned is not None:
            self._spawned.kill()
            self._spawned.wait()

    def _listen(self) -> None:
        if not self._reading:
            self._end.setblocking(False)
            asyncio.get_running_loop().add_reader(self._end, self._read)
            self._reading = True

    def _read(self) -> None:
        try:
            piece = self._end.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._gone()
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._receive(json.loads(line))

    def _receive(self, message: Mapping[str, int]) -> None:
        loop = asyncio.get_running_loop()
        pid = message.get("started", message.get("ended", 0))
        future = self._ended.setdefault(pid, loop.create_future())
        if "ended" in message:
            del self._ended[pid]
            if not future.done():
                future.set_result(message["status"])
        elif self._started is not None and not self._started.done():
            self._started.set_result(pid)

    def _gone(self) -> None:
        """Note that the server has ended, and all its children with it: a cause from outside for them."""
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._end)
        self._reading = False
        if self._started is not None and not self._started.done():
            self._started.set_exception(ConnectionResetError("the fork server is gone"))
        for future in self._ended.values():
            if not future.done():
                future.set_result(-int(signal.SIGKILL))
        self._ended.clear()


# The server's own process ----------------------------------------------------------------------------------------


def boot(end: int) -> None:
    """Run the server in an interpreter of its own."""
    command = os.getppid()
    memory.configure_allocators()
    memory.hold_gc()
    _work_of_children()
    _run_process(lambda: _serve(socket.socket(fileno=end), command))


def _serve(end: socket.socket, command: int, other: socket.socket | None = None) -> NoReturn:
    """Fork, wait, report ends, until the command is gone. `other`: the command's own end, if we have it."""
    if other is not None:
        other.close()
    die_with_parent(command)
    os.setsid()  # a terminal's Ctrl-C is the command's to handle
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # stdout is the command's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([end.fileno(), woken], [], [])
        if woken in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        _reap(end)
        if end.fileno() in readable:
            _start(end, (woken, wake, null))


def _start(end: socket.socket, inherited: tuple[int, ...]) -> None:
    message, descriptors, _, _ = socket.recv_fds(end, 16, 16)
    if not message:
        os._exit(0)  # the command is gone, and so are we and our children
    work = _work_of_children()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run_process(lambda: _become(work, end, inherited, descriptors, server))
    for descriptor in descriptors:
        os.close(descriptor)
    _report(end, {"started": pid})


def _work_of_children() -> ChildWork:
    """Import what children run: once, for all of them share it. A command that often starts none (`plan`, `check`)
    leaves it to the server: it would wait a second for Temporal's worker."""
    import pyarrow as pa

    from pipeline.processes.child import main

    pa.array([])  # pyarrow then imports pandas, where that is installed: a third of a second
    memory.start_gc()
    return main.run


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


def _run_process(work: Callable[[], object]) -> NoReturn:
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


def _reap(end: socket.socket) -> None:
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
        _report(end, {"ended": ended.si_pid, "status": os.waitstatus_to_exitcode(status)})


def _report(end: socket.socket, message: Mapping[str, int]) -> None:
    try:
        end.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)
