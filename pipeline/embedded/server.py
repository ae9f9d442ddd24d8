"""The client side of the embedded server: join it, starting it if necessary, and leave it.

A server lives as long as its users. Each holds a shared lock on `<home>/users.lock`, taken *before* it looks for
a server: from then on the supervisor cannot end, or has ended before that look.
"""

import asyncio
import fcntl
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.service import ConnectConfig, RPCError, ServiceClient

from pipeline.embedded import notes
from pipeline.embedded.launch import launch, no_server
from pipeline.embedded.ports import flag
from pipeline.owned_file import is_owned, is_shared, lock
from schemas.errors import UsageError

SEARCH_ATTRIBUTES = ("TandemPipeline", "TandemPartition", "TandemRun", "TandemState")
MAX_PATH_BYTES = 500  # SQLite opens no longer paths


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    address: str
    ui_url: str | None
    home: Path
    pid: int
    supervisor_pid: int
    ports: dict[str, int]
    started_at: str
    version: str


@dataclass(kw_only=True)
class EmbeddedServer:
    """A share in the server of a home. Held until `leave` or any end of the process."""

    info: ServerInfo
    started: bool
    _share: int | None = field(repr=False)

    @classmethod
    async def join(
        cls, home: Path, *, port: int | None = None, ui_port: int | None = None, timeout_s: float = 30
    ) -> Self:
        """Join the server; return when it answers and has our search attributes. `started`: this call started it."""
        home = await asyncio.to_thread(_prepare, home)
        share = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            async with asyncio.timeout(timeout_s):
                await _lock_share(share, home)
                info, started = await _find_or_start(home, port=port, ui_port=ui_port)
        except TimeoutError as exc:
            os.close(share)
            raise no_server(home, f"no answer within {timeout_s:g} s") from exc
        except BaseException:
            os.close(share)
            raise
        return cls(info=info, started=started, _share=share)

    def leave(self) -> None:
        """Close the descriptor and leave unlocking to the kernel, as a forked child may go on using the server."""
        if self._share is not None:
            os.close(self._share)
            self._share = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    @staticmethod
    def running(home: Path) -> ServerInfo | None:
        """Return the running server of a home. Neither starts it nor keeps it alive: for commands that only read."""
        home = home.resolve()
        if not _is_supervised(home):
            return None
        note: dict[str, Any] = notes.read_json(home / "server.json")
        known = {item.name for item in fields(ServerInfo)} - {"home"}  # another version of Tandem may write more
        return ServerInfo(home=home, **{name: note[name] for name in known}) if note.keys() >= known else None

    @staticmethod
    def in_use(home: Path) -> ServerInfo | None:
        """Return the running server of a home that some process uses. One whose last user was killed runs a second or
        two more, for nobody: it says nothing about what works now."""
        info = EmbeddedServer.running(home)
        return info if info is not None and is_shared(info.home / "users.lock") else None


def _prepare(home: Path) -> Path:
    """Return the folder, created and writable. Files are opened here, because a read-only disk refuses only that."""
    home = home.resolve()
    if len(os.fsencode(home / "temporal.db")) > MAX_PATH_BYTES:
        raise UsageError(
            f"The path {str(home)!r} is too long for the embedded server's database ({MAX_PATH_BYTES} bytes).",
            hint="Set TANDEM_HOME to a shorter path.",
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name in ("server.log", "users.lock"):
            with (home / name).open("ab"):
                pass
    except OSError as exc:
        raise UsageError(
            f"The embedded server cannot keep its files in {str(home)!r}: {exc.strerror}.",
            hint="Set TANDEM_HOME to a writable folder on a local disk.",
        ) from exc
    return home


async def _lock_share(share: int, home: Path) -> None:
    """Lock the share. Refused only for a moment: while the supervisor checks, or stops a server without users."""
    while True:
        try:
            if lock(share, fcntl.LOCK_SH):
                return
        except OSError as exc:
            raise UsageError(
                f"Files cannot be locked in {str(home)!r}: {exc.strerror}.",
                hint="Set TANDEM_HOME to a folder on a local disk.",
            ) from exc
        await asyncio.sleep(0.02)


async def _find_or_start(home: Path, **requested_ports: int | None) -> tuple[ServerInfo, bool]:
    started = False
    while True:
        info = await asyncio.to_thread(EmbeddedServer.running, home)
        if info:
            _check_ports(info, requested_ports)
            # Checked twice: a note of a dead supervisor might name a port that another process has now.
            if await _answers(info.address) and info == await asyncio.to_thread(EmbeddedServer.running, home):
                return info, started
        elif not await asyncio.to_thread(_is_supervised, home):
            started = await launch(home, SEARCH_ATTRIBUTES, **requested_ports)
            continue
        await asyncio.sleep(0.05)


async def _answers(address: str) -> bool:
    """True if the server answers. Adds missing search attributes: the server's own flags count only in a new
    database."""
    try:
        client = await ServiceClient.connect(ConnectConfig(target_host=address))
        if not await client.check_health():
            return False
        listing = ListSearchAttributesRequest(namespace="default")
        known = (await client.operator_service.list_search_attributes(listing)).custom_attributes
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        if missing := {name: keyword for name in SEARCH_ATTRIBUTES if name not in known}:
            adding = AddSearchAttributesRequest(namespace="default", search_attributes=missing)
            await client.operator_service.add_search_attributes(adding)
    except (RPCError, RuntimeError):
        return False
    return True


def _is_supervised(home: Path) -> bool:
    return is_owned(home / "supervisor.lock")


def _check_ports(info: ServerInfo, requested: dict[str, int | None]) -> None:
    for name, port in requested.items():
        if port is not None and port != info.ports[name]:
            raise UsageError(
                f"{flag(name)} {port} was given, but the embedded server of {str(info.home)!r} already runs "
                f"at {info.address} (UI: {info.ui_url}).",
                hint=f"Leave {flag(name)} out, or first end the commands that use that server.",
            )
