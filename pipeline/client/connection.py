"""The Temporal that this process works with: the configured one, or the embedded server beside the spec.

With a configured Temporal this process is only a client; workers run elsewhere. With the embedded server a command that
does work runs a worker itself, on the task queue of its pipeline, so that it never spends for another pipeline.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from pipeline.embedded.disk_space import check_room, room_watched
from pipeline.embedded.server import SEARCH_ATTRIBUTES, EmbeddedServer, ServerInfo
from pipeline.retry_policy import after_failure_async
from pipeline.settings import current, home_of, temporal_configured
from pipeline.telemetry.metrics.temporal_figures import buffer_of_process
from pipeline.workflows.payloads import JSON_MESSAGES
from schemas.errors import ConnectionFailed

_CONNECT_S = 10.0


@dataclass(frozen=True)
class Connection:
    """A connected client. `ui` is the address of the Temporal UI, if there is one."""

    client: Client
    embedded: EmbeddedServer | None
    ui: str | None
    search_attributes: bool

    def queue(self, pipeline: str) -> str:
        return f"tandem/{pipeline}" if self.embedded is not None else current().task_queue


@lru_cache(maxsize=1)
def log_to_python() -> None:
    """Send warnings of the SDK's core to Python's logging: by default they go to stdout, which is for results.

    The SDK has one runtime per process, made once: a runtime that the user's program has set is kept.
    """
    forwarded = LogForwardingConfig(logger=logging.getLogger("temporal.core"))
    logs = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarded)
    telemetry = TelemetryConfig(logging=logs, metrics=buffer_of_process())
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)


@asynccontextmanager
async def connected(base: Path) -> AsyncIterator[Connection]:
    """Connect; start or join the embedded server if no Temporal is configured. Raises ConnectionFailed, NoRoom."""
    log_to_python()
    if temporal_configured():
        client = await connect()
        yield Connection(client, None, None, await _has_attributes(client))
        return
    home = home_of(base)
    await asyncio.to_thread(check_room, home)
    embedded = await EmbeddedServer.join(home)
    try:
        client = await Client.connect(embedded.info.address, data_converter=JSON_MESSAGES, lazy=False)
        async with room_watched(home):
            yield Connection(client, embedded, embedded.info.ui_url, True)
    finally:
        embedded.leave()


@asynccontextmanager
async def server_starting(base: Path) -> AsyncIterator[None]:
    """Let the embedded server start, if it is needed and none runs, beside the body, which is to connect at its end. A
    failure is left to that."""
    if temporal_configured():
        yield
        return
    joining = asyncio.create_task(EmbeddedServer.join(home_of(base)))
    try:
        yield
    finally:
        joining.cancel()
        joined = (await asyncio.gather(joining, return_exceptions=True))[0]
        if isinstance(joined, EmbeddedServer):
            joined.leave()


@asynccontextmanager
async def connected_if_running(base: Path) -> AsyncIterator[Connection | None]:
    """Connect for commands that only read: never starts a server; yields None if none runs, or none for anybody."""
    log_to_python()
    if temporal_configured():
        client = await connect()
        yield Connection(client, None, None, False)
        return
    info = EmbeddedServer.in_use(home_of(base))
    client_or_none = await _client_of(info) if info else None
    yield None if client_or_none is None or info is None else Connection(client_or_none, None, info.ui_url, True)


async def _client_of(info: ServerInfo) -> Client | None:
    """Return a client of a server, None if it does not answer; retries, as it may be restarting after a crash."""

    async def connect() -> Client:
        return await Client.connect(info.address, data_converter=JSON_MESSAGES)

    try:
        return await after_failure_async(connect, on=RuntimeError, attempts=5)
    except RuntimeError:
        return None


async def connect() -> Client:
    """Connect to the configured Temporal. Raises ConnectionFailed with the address and the setting."""
    log_to_python()
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as exc:
        raise ConnectionFailed(f"Temporal's configuration cannot be read: {exc}", hint="Check temporal.toml.") from exc
    address = config.get("target_host", "localhost:7233")
    try:
        async with asyncio.timeout(_CONNECT_S):
            return await Client.connect(**config, data_converter=JSON_MESSAGES)
    except (RuntimeError, TimeoutError, RPCError) as exc:
        raise ConnectionFailed(
            f"Temporal at {address} cannot be reached.",
            hint="Check TEMPORAL_ADDRESS (and TLS, key, namespace), or unset it to use the embedded server.",
        ) from exc


async def _has_attributes(client: Client) -> bool:
    """True if our search attributes are registered; the server refuses a start with unregistered ones."""
    try:
        found = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError:
        return False
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    return all(found.custom_attributes.get(name) == keyword for name in SEARCH_ATTRIBUTES)
