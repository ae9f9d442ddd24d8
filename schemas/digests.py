"""One digest for all that is named by its content."""

import hashlib


def digest(*parts: bytes | str, size: int = 16) -> str:
    """Hex digest of length-prefixed parts (so that no two lists of parts run into one another)."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()
