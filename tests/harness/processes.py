"""Child processes of the tests: ready before they are handed over, gone when the tests are gone."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]

# Linux kills the child when its parent dies, even by SIGKILL (1 = PR_SET_PDEATHSIG, kept across exec). The pid stays
# the same, and nothing of ours runs between fork and exec.
_LEASH = """
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


class HarnessError(RuntimeError):
    """A server of the harness did not start, did not answer or refused its script."""


class Child:
    """One started process. `kill` is a crash, `stop` is SIGTERM and then SIGKILL; both wait for the end."""

    def __init__(
        self, command: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        output: IO[bytes] | None = log.open("ab") if log is not None else None
        try:
            self.process = subprocess.Popen(
                [*_leash(), *command],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT freeze and thaw a server."""
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def stop(self, grace_s: float = 5.0) -> None:
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reap()

    def ready_line(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """The JSON line that our own servers print once they listen."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.stop()
            raise HarnessError(f"{self.process.args!r} printed no ready line within {timeout_s} s")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reap(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        atexit.unregister(self.kill)


class Control:
    """A JSON client over urllib: synchronous, without proxies, one connection a call."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        return self._send(urllib.request.Request(self.base_url + path))

    def post(self, path: str, payload: object) -> Any:
        data = json.dumps(payload).encode()
        return self._send(urllib.request.Request(self.base_url + path, data, method="POST"))

    def _send(self, request: urllib.request.Request) -> Any:
        try:
            with self._opener.open(request, timeout=30) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as exc:
            with exc:
                raise HarnessError(f"{request.full_url}: {exc.code} {exc.read().decode()}") from exc


def wait_until(answers: Callable[[], bool], child: Child, *, what: str, timeout_s: float = 60.0) -> None:
    """Poll until `answers` is true; a refused connection counts as not yet. A dead child ends the wait at once."""
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline and child.alive:
        try:
            if answers():
                return
        except Exception as exc:
            last = exc
        time.sleep(0.05)
    fate = "gave no answer" if child.alive else f"ended with code {child.process.returncode}"
    child.kill()
    raise HarnessError(f"{what} {fate} ({last!r})\n{_tail(child.log)}") from last


def _leash() -> list[str]:
    # The kernel watches the thread that forked, so a thread that is shorter than the process must not hold the leash.
    if threading.current_thread() is not threading.main_thread():
        return []
    return [sys.executable, "-I", "-S", "-c", _LEASH]


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    return log.read_text(errors="replace")[-2000:]
