"""NDJSON as chunks of text columns: every value as written, absent ones null. Types are decided afterwards."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from pipeline.sources.encoding import BLOCK_BYTES, Chunk, open_text, short, unfinished
from pipeline.sources.listing import SourceFile
from schemas.errors import SourceError

_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def ndjson_chunks(file_index: int, file: SourceFile) -> Iterator[Chunk]:
    """Yield the rows: strings as they are, other scalars and nested values as their JSON text."""
    number = 0
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    size = 0
    for line, ended in _lines(file):
        number += 1
        if not line.strip():
            continue
        row = _json_object(line, number, file, ended=ended)
        names.update(dict.fromkeys(row))
        rows.append(row)
        size += len(line)
        if size >= BLOCK_BYTES and names:
            yield _chunk(file_index, rows, names)
            rows, size = [], 0
    if rows and not names:
        raise SourceError(f"{file.uri}: none of its objects has a key.")
    if rows:
        yield _chunk(file_index, rows, names)


def _json_object(line: bytes, number: int, file: SourceFile, *, ended: bool) -> dict[str, Any]:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        array = number == 1 and line.lstrip()[:1] == b"["
        if not ended and not array:
            raise unfinished(file, number, "is no whole JSON object") from None
        hint = "Write one object per line; to convert an array: jq -c '.[]'" if array else ""
        raise SourceError(f"{file.uri}: line {number:,} is not JSON: {short(exc)}.", hint=hint) from None
    if not isinstance(row, dict):
        raise SourceError(f"{file.uri}: line {number:,} is no JSON object.", hint="Write one object per line: {…}.")
    if _LONG_NUMBER.search(line):  # orjson would round an integer of more than 64 bits: it is kept as text
        return dict(json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < 19 else digits))
    return row


def _lines(file: SourceFile) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines, each with whether it ends, which only the last may not."""
    rest = b""
    try:
        with open_text(file) as stream:
            begun = False
            while block := stream.read(BLOCK_BYTES):
                if not begun:
                    block, begun = block.removeprefix(codecs.BOM_UTF8), True
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                yield from ((line, True) for line in lines)
    except (pa.ArrowInvalid, OSError) as exc:
        raise SourceError(f"{file.uri}: cannot be read: {short(exc)}.") from None
    if rest:
        yield rest, False


def _chunk(file_index: int, rows: list[dict[str, Any]], names: dict[str, None]) -> Chunk:
    columns = {name: pl.Series([_text(row.get(name)) for row in rows], dtype=pl.String) for name in names}
    quoted = frozenset(name for name in names if any(isinstance(row.get(name), str) for row in rows))
    return Chunk(file_index, pl.DataFrame(columns), quoted)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
