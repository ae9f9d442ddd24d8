"""The command's side of its fork server."""

import array
import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Self

from pipeline.processes.fork_server import serving

_LONGEST = 65_536
_QUIET_S, _LONG_QUIET_S = 0.1, 60.0
Started = tuple[int, "asyncio.Future[int]"]  # the pid of a child, and its exit status
_servers: "list[ForkServer]" = []  # of this process; the last is the one that may be alive


def prepare(uses: Iterable[str] | None = None) -> None:
    """Fork the server of this process, if it has none: its children share what is imported by now. `uses`: import first
    what stages of these kinds need, which all of a command's processes then hold once (`python -m tests.bench
    memory`); None: nothing. To be called before anything starts a thread of Python's or a loop. Does nothing if Polars
    has computed something in this process: its threads are lost in a fork, and a child would wait for them for
    ever."""
    if _servers or _polars_has_threads():
        return
    if uses is not None:
        serving.work_of_children(uses)
    _servers.append(ForkServer.forked())


def current() -> "ForkServer":
    """Return the server of this process: the prepared one while it lives, else one in an interpreter of its own."""
    if not _servers or not _servers[-1].alive:
        _servers.append(ForkServer.spawned())
    return _servers[-1]


def _polars_has_threads() -> bool:
    """True if the threads that compute for Polars were started, where the system tells. Its import starts none."""
    with contextlib.suppress(OSError):
        for thread in os.scandir("/proc/self/task"):
            with open(f"{thread.path}/comm") as name:
                if re.fullmatch(r"polars-\d+\n", name.read()):
                    return True
    return False


class ForkServer:
    """The command's side. `alive` until the server's process is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unread = b""
        self._asked: deque[asyncio.Future[Started]] = deque()  # for children, in the order of the answers
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._reading = False
        self.alive = True
        self._spawned: subprocess.Popen[bytes] | None = None
        self._rests_after: float | None = None
        self._quiet: asyncio.TimerHandle | None = None

    @classmethod
    def forked(cls) -> Self:
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        command = os.getpid()

        def serve() -> None:
            ours.close()
            serving.serve(theirs, command)

        with warnings.catch_warnings():
            # Polars has an idle thread from its import on, which holds nothing; a child does without it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            serving.run_process(serve)
        theirs.close()
        return cls(ours)

    @classmethod
    def spawned(cls) -> Self:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            serving.boot_command(theirs.fileno()), pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
            stdout=2, env=serving.boot_environment(),
        )  # fmt: skip
        theirs.close()
        server = cls(ours)
        server._spawned = process
        return server

    async def start(self, descriptors: Sequence[int]) -> Started:
        """Start a child that has these descriptors as stdout, stderr, channel and table. Returns its pid, and a future
        of its exit status (as of `os.waitstatus_to_exitcode`). Raises OSError if the server is gone."""
        self._listen()
        if not self.alive:
            raise ConnectionResetError("the fork server is gone")
        self._end.setblocking(True)
        packed = array.array("i", descriptors).tobytes()
        self._end.sendmsg([serving.START], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
        self._end.setblocking(False)
        answer: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        return await answer

    def let_rest(self) -> None:
        """Let the server give its memory back whenever no child has been started for a while. One that is started then
        waits for a second."""
        if self._rests_after is None:
            self._rests_after = _QUIET_S
            self._wait_for_quiet()

    def close(self) -> None:
        """Let the server end; its children end with it."""
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._end)
            self._reading = False
        if self._quiet is not None:
            self._quiet.cancel()
        self._end.close()
        self.alive = False
        if self._spawned is not None:
            self._spawned.kill()
            self._spawned.wait()

    def _wait_for_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        if self._rests_after is not None:
            self._quiet = asyncio.get_running_loop().call_later(self._rests_after, self._rest_now)

    def _rest_now(self) -> None:
        if self.alive and not self._asked:
            self._rests_after = _LONG_QUIET_S  # who starts more has children that die, and would wait each time
            with contextlib.suppress(OSError):  # it is gone, which the reading notes
                self._end.send(serving.REST)

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
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            what, *numbers = line.decode().split()
            self._receive(what, *map(int, numbers))

    def _receive(self, what: str, pid: int, status: int = 0) -> None:
        future = self._ended.setdefault(pid, asyncio.get_running_loop().create_future())
        if what == "ended":
            del self._ended[pid]
            if not future.done():
                future.set_result(status)
            return
        self._wait_for_quiet()
        if not (answer := self._asked.popleft()).done():  # it is, if who asked was cancelled
            answer.set_result((pid, future))

    def _gone(self) -> None:
        """Note that the server has ended, and all its children with it: a cause from outside for them."""
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._end)
        self._reading = False
        while self._asked:
            if not (answer := self._asked.popleft()).done():
                answer.set_exception(ConnectionResetError("the fork server is gone"))
        for future in self._ended.values():
            if not future.done():
                future.set_result(-int(signal.SIGKILL))
        self._ended.clear()
