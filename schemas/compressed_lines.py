"""Lines compressed with zstd: the form of objects that only Tandem reads."""

from collections.abc import Iterable

import pyarrow as pa

_BLOCK = 2**20


def compress(lines: Iterable[bytes]) -> bytes:
    """Return lines as one compressed object."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        held = bytearray()  # a copy, as a line of orjson's may occupy some KB, however short it is
        for line in lines:
            held += line
            held += b"\n"
            if len(held) >= _BLOCK:
                stream.write(bytes(held))
                held.clear()
        stream.write(bytes(held))
    return bytes(sink.getvalue())


def decompress(content: bytes, what: str) -> list[bytes]:
    """Return the lines of an object. Raises ValueError, which calls it `what`."""
    try:
        found: list[bytes] = pa.CompressedInputStream(pa.BufferReader(content), "zstd").read().splitlines()
    except OSError as exc:
        raise ValueError(f"{what} cannot be read: {exc}") from exc
    return found
