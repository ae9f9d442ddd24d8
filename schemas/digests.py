"""The digest for everything that is named by its content."""

import hashlib
from pathlib import Path


def digest(*parts: bytes | str, size: int = 16) -> str:
    """Return the hex digest of length-prefixed parts (so that two lists of parts never give the same bytes)."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
