"""Long text in pieces of a bounded size, cut where it hurts least: between paragraphs, lines, sentences, words."""

import re
from collections.abc import Iterator

from stages.text.tokens import BYTES_PER_TOKEN

# From the widest bound to the narrowest; each piece keeps the white space behind it, so that pieces join to the whole.
_BOUNDS = tuple(re.compile(bound) for bound in (r"\n\s*\n", r"\n", r"(?<=[.!?…。！？])[\"'”’)\]]*\s+", r"\s+"))


def chunked(text: str, size: int) -> list[str]:
    """Pieces of at most `size` tokens whose concatenation is the text; as few as neighbours can be joined to."""
    return list(_joined(_pieces(text, size * BYTES_PER_TOKEN, 0), size * BYTES_PER_TOKEN)) if text else []


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _pieces(text: str, limit: int, bound: int) -> Iterator[str]:
    """Pieces within the limit, each as large a unit as fits."""
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
    """A word without end, by characters."""
    held, size = 0, 0
    for at, char in enumerate(text):
        more = _size(char)
        if size + more > limit and at > held:
            yield text[held:at]
            held, size = at, 0
        size += more
    yield text[held:]


def _joined(pieces: Iterator[str], limit: int) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for piece in pieces:
        more = _size(piece)
        if held and size + more > limit:
            yield "".join(held)
            held, size = [], 0
        held.append(piece)
        size += more
    if held:
        yield "".join(held)
