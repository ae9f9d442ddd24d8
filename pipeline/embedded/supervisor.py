"""Keep one Temporal dev server alive exactly as long as a process uses it.

Three locks in its folder show which processes are alive, so that no state can be stale:

    users.lock       shared, by every process that uses the server; when we get it exclusively, no user is left
    supervisor.lock  exclusive, by this process: one supervisor per home
    server.lock      held through a descriptor that the server inherits: free when no server has the database open

`server.json` says where the server listens, and is true only while supervisor.lock is held. This process outlives the
one that started it and imports nothing but the standard library, its two neighbours and `pipeline.owned_file`.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from pipeline.embedded import notes, ports
from pipeline.owned_file import lock

POLL_S, START_S, STOP_S = 0.5, 30.0, 5.0
CRASH_S, MAX_CRASHES = 5.0, 6
MAX_LOG_BYTES = 1 << 20

# Exact priorities and fairness need one partition per task queue, which is plenty for one machine. A write-ahead log
# with full synchronisation is as durable as SQLite's default and measured 1.6 times as fast.
TUNING = (
    *("--dynamic-config-value", "matching.enableFairness=true"),
    *("--dynamic-config-value", "matching.numTaskqueueReadPartitions=1"),
    *("--dynamic-config-value", "matching.numTaskqueueWritePartitions=1"),
    *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=2"),
)


class CannotStart(Exception):
    """The server cannot be started. `outcome` is sent to the caller: `joined`, `usage` or `failed`."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


def main() -> None:
    """Run a supervisor. It detaches first: the caller need not reap it, and the caller's Ctrl-C does not reach it."""
    request = _arguments()
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        supervisor = Supervisor(request)
    except CannotStart as exc:
        _report(exc.outcome, str(exc))
    else:
        _report("started")
        supervisor.run()


class Supervisor:
    """A supervisor and its server. Once constructed, the server listens; `run` returns when it has ended."""

    def __init__(self, request: argparse.Namespace) -> None:
        self.request, self.home = request, Path(request.home)
        self.stopping, self.crashes = False, 0
        self.supervisor_lock = notes.take(self.home / "supervisor.lock", patience_s=0.2)
        if self.supervisor_lock is None:
            raise CannotStart("joined", "another supervisor is running")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if os.fstat(2).st_size > MAX_LOG_BYTES:
            os.ftruncate(2, 0)
        self.server_lock = self._outlast_orphan()
        self.users_lock = os.open(self.home / "users.lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._start()
        notes.write_json(self.home / "ports.json", self.ports)
        self._announce()

    def run(self) -> None:
        """Run until two checks half a second apart find no user, as commands often follow each other closely."""
        idle = 0
        try:
            while not self.stopping and idle < 2:
                if self._ended_within(POLL_S):
                    self._revive()
                idle = idle + 1 if lock(self.users_lock) else 0
                if idle == 1:
                    fcntl.flock(self.users_lock, fcntl.LOCK_UN)
            # The second check keeps the lock until our end: a new user waits, then starts the next supervisor.
        finally:
            if notes.read_json(self.home / "server.json").get("supervisor_pid") == os.getpid():
                (self.home / "server.json").unlink(missing_ok=True)
            self._stop()

    def _outlast_orphan(self) -> int:
        """Take the server's lock; end a server without a supervisor, where the kernel did not end both together."""
        path, stale = self.home / "server.lock", self.home / "server.json"
        pid = notes.read_json(stale).get("pid")
        stale.unlink(missing_ok=True)
        held = notes.take(path, patience_s=2.0)
        if held is None and isinstance(pid, int):  # the lock is held, so the note names its holder
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            held = notes.take(path, patience_s=STOP_S)
        if held is None:
            raise CannotStart("failed", f"a server without a supervisor holds {str(path)!r}")
        return held

    def _start(self) -> None:
        """Start the server; again with other ports if it ends at once, as a port may be taken between our check and its
        start."""
        for _ in range(3):
            try:
                self.ports = ports.choose(vars(self.request), notes.read_json(self.home / "ports.json"))
            except ports.PortTaken as exc:
                raise CannotStart("usage", str(exc)) from exc
            self._spawn()
            while not self._ended_within(0.02) and time.monotonic() < self.born + START_S and not self.stopping:
                if ports.answers(self.ports["port"]):
                    return
            if self._ended_within(0):
                continue
            self._stop()
            raise CannotStart("failed", f"the server did not listen within {START_S:g} s")
        raise CannotStart("failed", f"the server ended with {self.server.returncode} as soon as it was started")

    def _spawn(self) -> None:
        # The database's name is relative, as a path with `?` or `#` would be read as part of a URI.
        flags = [f"{ports.flag(name)}={port}" for name, port in self.ports.items()]
        attributes = [f"--search-attribute={name}=Keyword" for name in self.request.search_attribute]
        self.server = subprocess.Popen(
            [self.request.binary, "server", "start-dev", "--ip", ports.HOST, "--db-filename", "temporal.db",
             "--log-level", "error", "--ui-disable-news-fetch", *flags, *attributes, *TUNING],
            cwd=self.home, stdin=subprocess.DEVNULL, stdout=2, stderr=2,
            pass_fds=(self.server_lock,), preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  (no threads here)
        )  # fmt: skip
        self.born = time.monotonic()

    def _revive(self) -> None:
        """Restart a crashed server on the same ports, to which clients reconnect; give up after several crashes in a
        row."""
        self.crashes = self.crashes + 1 if time.monotonic() < self.born + CRASH_S else 1
        print(f"tandem: the server ended with {self.server.returncode} ({self.crashes} in a row)", file=sys.stderr)
        if self.crashes > MAX_CRASHES:
            self.stopping = True
            return
        time.sleep(min(0.05 * 2**self.crashes, 2.0))
        self._spawn()
        self._announce()

    def _announce(self) -> None:
        note = {
            "address": f"{ports.HOST}:{self.ports['port']}",
            "ui_url": f"http://{ports.HOST}:{self.ports['ui_port']}",
            "pid": self.server.pid,
            "supervisor_pid": os.getpid(),
            "ports": self.ports,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": self.request.version,
        }
        notes.write_json(self.home / "server.json", note)

    def _stop(self) -> None:
        self.server.terminate()
        if not self._ended_within(STOP_S):
            self.server.kill()
            self.server.wait()

    def _ended_within(self, seconds: float) -> bool:
        try:
            self.server.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return a hook by which the Linux kernel kills the server when its supervisor dies of any cause."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: nothing should be loaded after it

    def bind() -> None:
        prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return bind


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--home", "--binary", "--version"):
        parser.add_argument(name, required=True)
    parser.add_argument("--search-attribute", action="append", default=[])
    for name in ("--port", "--ui-port"):
        parser.add_argument(name, type=int)
    return parser.parse_args()


def _report(outcome: str, message: str = "") -> None:
    """Write one line to the caller, if it still listens, then close the pipe: it reads up to its end."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps({"outcome": outcome, "message": message}).encode())
    os.dup2(2, 1)
