"""As much HTTP/1.1 as a proxy needs: heads, the length of bodies, and bodies piece by piece as they stand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

HEAD_LIMIT = 2**20
_PIECE = 2**16


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the headers of a message. `raw` is what arrived, closing empty line included."""

    raw: bytes
    first: str
    headers: dict[str, str]  # names in lower case

    @property
    def method(self) -> str:
        return self.first.split(" ", 2)[0]

    @property
    def target(self) -> str:
        return self.first.split(" ", 2)[1]

    @property
    def status(self) -> int:
        return int(self.first.split(" ", 2)[1])

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        given = self.headers.get("content-length")
        return None if given is None else int(given)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close" or self.first.endswith("HTTP/1.0")

    def without(self, name: str) -> bytes:
        """The raw head without one header, named in lower case."""
        prefix = name.encode() + b":"
        lines = [line for line in self.raw.split(b"\r\n") if not line.lower().startswith(prefix)]
        return b"\r\n".join(lines)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head, or None when the peer has closed the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, first, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def request_body(reader: asyncio.StreamReader, head: Head, piece: int = _PIECE) -> AsyncIterator[bytes]:
    if head.chunked:
        async for data in _chunks(reader):
            yield data
    else:
        async for data in _sized(reader, head.length or 0, piece):
            yield data


async def response_body(
    reader: asyncio.StreamReader, head: Head, method: str, piece: int = _PIECE
) -> AsyncIterator[bytes]:
    """Without a length, the body lasts until the server closes."""
    if method == "HEAD" or head.status in (204, 304):
        return
    if head.chunked:
        async for data in _chunks(reader):
            yield data
    elif head.length is not None:
        async for data in _sized(reader, head.length, piece):
            yield data
    else:
        while data := await reader.read(piece):
            yield data


async def _sized(reader: asyncio.StreamReader, length: int, piece: int) -> AsyncIterator[bytes]:
    while length > 0:
        data = await reader.read(min(length, piece))
        if not data:
            raise ConnectionResetError("the body ended early")
        length -= len(data)
        yield data


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Chunks with their framing, the last one and the trailers included."""
    try:
        while True:
            size = await reader.readuntil(b"\r\n")
            yield size
            count = int(size.split(b";")[0], 16)
            if count == 0:
                break
            yield await reader.readexactly(count + 2)
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            yield line
        yield line
    except asyncio.IncompleteReadError as exc:
        raise ConnectionResetError("the body ended early") from exc
