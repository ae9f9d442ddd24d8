"""The Temporal that this process works with: the configured one, or the embedded server beside the spec.

A configured Temporal makes this process a client only; workers run elsewhere. With the embedded server a command that
does work brings a worker along, on a task queue of the pipeline's own, so that it never makes another one spend.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from pipeline.embedded.server import SEARCH_ATTRIBUTES, EmbeddedServer, ServerInfo
from pipeline.retry_policy import after_failure_async
from pipeline.settings import current, home_of, temporal_configured
from schemas.errors import ConnectionFailed, NoRoom

_CONNECT_S = 10.0
_LEAST_ROOM = 4 << 20  # bytes: what a small run writes to the embedded server's file


@dataclass(frozen=True)
class Connection:
    """A connected client. `ui` is the address of the Temporal UI, where there is one."""

    client: Client
    embedded: EmbeddedServer | None
    ui: str | None
    search_attributes: bool

    def queue(self, pipeline: str) -> str:
        return f"tandem/{pipeline}" if self.embedded is not None else current().task_queue


@lru_cache(maxsize=1)
def log_to_python() -> None:
    """The SDK's core writes its warnings to stdout, which belongs to results: send them to Python's logging instead.

    Its runtime is a process's, and is made once: what a program of the user's has set stays.
    """
    forwarded = LogForwardingConfig(logger=logging.getLogger("temporal.core"))
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarded)
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=logs)), error_if_already_set=False)


def _refuse_full(home: Path) -> None:
    """The server stands still where its file cannot grow, and does not say why. Raises NoRoom."""
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < _LEAST_ROOM:
        raise NoRoom(
            f"{str(home)!r}, where the embedded Temporal server keeps its file, has {free:,} bytes left, and "
            f"{_LEAST_ROOM:,} are needed.",
            hint="Free some space, or set TANDEM_HOME to a folder on another disk; nothing that was answered is lost.",
        )


@asynccontextmanager
async def connected(base: Path) -> AsyncIterator[Connection]:
    """Connect; start or join the embedded server where no Temporal is configured. Raises ConnectionFailed."""
    log_to_python()
    if temporal_configured():
        client = await connect()
        yield Connection(client, None, None, await _knows_attributes(client))
        return
    await asyncio.to_thread(_refuse_full, home_of(base))
    embedded = await EmbeddedServer.join(home_of(base))
    try:
        client = await Client.connect(embedded.info.address, data_converter=pydantic_data_converter, lazy=False)
        yield Connection(client, embedded, embedded.info.ui_url, True)
    finally:
        embedded.leave()


@asynccontextmanager
async def connected_if_running(base: Path) -> AsyncIterator[Connection | None]:
    """The same for commands that only read: never starts a server; None where none runs."""
    log_to_python()
    if temporal_configured():
        client = await connect()
        yield Connection(client, None, None, False)
        return
    info = EmbeddedServer.running(home_of(base))
    client_or_none = await _client_of(info) if info else None
    yield None if client_or_none is None or info is None else Connection(client_or_none, None, info.ui_url, True)


async def _client_of(info: ServerInfo) -> Client | None:
    """None where it doesn't answer, though it may be coming back from a crash."""

    async def connect() -> Client:
        return await Client.connect(info.address, data_converter=pydantic_data_converter)

    try:
        return await after_failure_async(connect, on=RuntimeError, attempts=5)
    except RuntimeError:
        return None


async def connect() -> Client:
    """The configured Temporal. Raises ConnectionFailed naming the address and the setting."""
    log_to_python()
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as exc:
        raise ConnectionFailed(f"Temporal's configuration cannot be read: {exc}", hint="Check temporal.toml.") from exc
    address = config.get("target_host", "localhost:7233")
    try:
        async with asyncio.timeout(_CONNECT_S):
            return await Client.connect(**config, data_converter=pydantic_data_converter)
    except (RuntimeError, TimeoutError, RPCError) as exc:
        raise ConnectionFailed(
            f"Temporal at {address} cannot be reached.",
            hint="Check TEMPORAL_ADDRESS (and TLS, key, namespace), or unset it to use the embedded server.",
        ) from exc


async def _knows_attributes(client: Client) -> bool:
    """Are ours registered? An unregistered one would refuse the start."""
    try:
        found = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError:
        return False
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    return all(found.custom_attributes.get(name) == keyword for name in SEARCH_ATTRIBUTES)
