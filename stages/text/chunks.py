"""Split long text into pieces of a bounded size, at the best boundary: paragraphs, lines, sentences, words."""

import re
from collections.abc import Iterator

from stages.text.tokens import BYTES_PER_TOKEN

# From the widest bound to the narrowest; each piece keeps the white space behind it, so that pieces join to the whole.
_BOUNDS = tuple(re.compile(bound) for bound in (r"\n\s*\n", r"\n", r"(?<=[.!?…。！？])[\"'”’)\]]*\s+", r"\s+"))


def chunked(text: str, size: int) -> list[str]:
    """Return pieces of at most `size` tokens whose concatenation is the text; neighbours are joined where they fit."""
    return list(_joined(_pieces(text, size * BYTES_PER_TOKEN, 0), size * BYTES_PER_TOKEN)) if text else []


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _pieces(text: str, limit: int, bound: int) -> Iterator[str]:
    """Yield pieces within the limit, each the largest unit that fits."""
    if _size(text) <= limit:
        yield text
    elif bound == len(_BOUNDS):
        yield from _cut(text, limit)
    else:
        start = 0
        for found in _BOUNDS[bound].finditer(text):
            if found.end() > start:
                yield from _pieces(text[start : found.end()], limit, bound + 1)
                start = found.end()
        if start < len(text):
            yield from _pieces(text[start:], limit, bound + 1)


def _cut(text: str, limit: int) -> Iterator[str]:
    """Cut a very long word between characters."""
    start, size = 0, 0
    for index, char in enumerate(text):
        char_size = _size(char)
        if size + char_size > limit and index > start:
            yield text[start:index]
            start, size = index, 0
        size += char_size
    yield text[start:]


def _joined(pieces: Iterator[str], limit: int) -> Iterator[str]:
    chunk: list[str] = []
    size = 0
    for piece in pieces:
        piece_size = _size(piece)
        if chunk and size + piece_size > limit:
            yield "".join(chunk)
            chunk, size = [], 0
        chunk.append(piece)
        size += piece_size
    if chunk:
        yield "".join(chunk)
