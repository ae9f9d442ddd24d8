"""Serve the page from a command: an address, a token, and a server in the command's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe

import uvicorn

from pipeline.web.access import Access, is_loopback
from pipeline.web.application import application
from pipeline.web.site import Site
from schemas.errors import UsageError

PORT = 8420
_DRAIN_S = 2


@dataclass(frozen=True)
class PageOptions:
    """Where the page listens and what it allows. `port` None: PORT, or a free one if that is taken. `acts` None: where
    it listens on this machine alone. `token` None: a random one."""

    sinks: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int | None = None
    acts: bool | None = None
    allowed_hosts: tuple[str, ...] = ()
    reviewer_header: str | None = None
    token: str | None = None


@contextlib.asynccontextmanager
async def serving(folder: Path, options: PageOptions) -> AsyncIterator[str]:
    """Serve the page of the datasets known in a folder while the block runs; yields its URL, with the token. Raises
    UsageError for an address that cannot be used, a sink that is none, a token that is too short; StoreError."""
    with contextlib.closing(_listen(options.host, options.port)) as listening:
        port: int = listening.getsockname()[1]
        access = _access(options, port)
        site = Site(folder=folder, access=access, sinks=options.sinks)
        await asyncio.to_thread(site.datasets)
        config = uvicorn.Config(
            application(site), log_config=None, access_log=False, lifespan="off", server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=_DRAIN_S,
        )  # fmt: skip
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://{_netloc(options, port)}/?token={access.token}"
        finally:
            server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)
            await site.close()


class _Server(uvicorn.Server):
    """A server whose command handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _access(options: PageOptions, port: int) -> Access:
    token = options.token or token_urlsafe(24)
    if len(token) < 16 or not token.isascii() or not all(char.isalnum() or char in "-_.~" for char in token):
        raise UsageError(
            "TANDEM_UI_TOKEN is no good token: it needs 16 or more of the letters, digits and -_.~",
            hint="Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return Access(
        token=token,
        host=options.host,
        port=port,
        allowed=frozenset(name.lower() for name in options.allowed_hosts),
        acts=is_loopback(options.host) if options.acts is None else options.acts,
        reviewer_header=options.reviewer_header,
    )


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket; without a port on PORT, or a free one. Raises UsageError."""
    for choice in (port,) if port is not None else (PORT, 0):
        try:
            return _bound(host, choice)
        except OSError as exc:
            failure = exc
    raise UsageError(
        f"--host {host} --port {port or PORT}: this address cannot be used: {failure.strerror or failure}.",
        hint="Name an address of this machine and a free port, or leave --port out.",
    )


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found


def _netloc(options: PageOptions, port: int) -> str:
    """Return the name under which the printed URL reaches the page."""
    host = options.host
    if host in ("0.0.0.0", "::"):  # noqa: S104  any address of this machine
        host = options.allowed_hosts[0] if options.allowed_hosts else socket.gethostbyname(socket.gethostname())
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
