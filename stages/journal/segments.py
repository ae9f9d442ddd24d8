"""Segments: the immutable objects that records are appended in, and the lines they are made of.

A header line, then one line a record, `<crc32, 8 hex> <JSON>`. A torn line fails its checksum and costs only itself.
Compacted journals hold the same records as Parquet (`pipeline.journal.compacted`).
"""

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from stages.journal.records import CallRecord, Record, encode_record, record_of

FORMAT = 1
_LINE_START = re.compile(rb"[0-9a-f]{8} \{")


def encode_segment(records: Iterable[Record]) -> bytes:
    """Header and lines."""
    lines = [orjson.dumps({"tandem_journal": FORMAT})]
    for record in records:
        lines.append(line_of(encode_record(record)))
    return b"\n".join(lines) + b"\n"


def line_of(body: bytes) -> bytes:
    return b"%08x " % zlib.crc32(body) + body


@dataclass
class Segment:
    """The whole records of a segment, and how many lines were torn."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0


class UnknownFormat(Exception):
    """A segment written by another version: never guessed at."""


def decode_segment(data: bytes) -> Segment:
    """Records of a segment; torn lines are counted, not guessed. Raises UnknownFormat for another version's.

    A torn header costs nothing more than itself: lines say what they are, and a later format must seed its checksums
    (`zlib.crc32(body, FORMAT)`), so that its lines can never pass for ours.
    """
    segment = Segment()
    header, *lines = data.split(b"\n")
    version = _version(header)
    if version is None:
        _decode_line(header, segment)
    elif version != FORMAT:
        raise UnknownFormat(f"journal format {version!r}, this Tandem reads {FORMAT}")
    for line in lines:
        if line:
            _decode_line(line, segment)
    return segment


def _version(header: bytes) -> int | None:
    try:
        version = orjson.loads(header)["tandem_journal"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


def _decode_line(line: bytes, segment: Segment) -> None:
    record = _whole(line)
    if record is not None:
        segment.records.append(record)
        return
    segment.torn += 1
    for start in _LINE_START.finditer(line, 1):  # a torn line break: what follows it is whole
        before, after = _whole(line[: start.start() - 1]), _whole(line[start.start() :])
        segment.records.extend(record for record in (before, after) if record is not None)
        if after is not None:
            return


def _whole(line: bytes) -> Record | None:
    body = _checked(line)
    return record_of(body) if body is not None else None


def _checked(line: bytes) -> bytes | None:
    """The body of a line whose checksum holds."""
    body = line[9:]
    return body if body and line[:9] == b"%08x " % zlib.crc32(body) else None


def decode_spool(data: bytes) -> list[Record]:
    """What a process that died had noted since its last flush: records, and a call of unknown outcome for each request
    that was out. Torn lines are what it was writing when it died."""
    records: list[Record] = []
    out: dict[str, CallRecord] = {}
    for line in data.split(b"\n"):
        body = _checked(line)
        if body is None:
            continue
        if (record := record_of(body)) is not None:
            records.append(record)
            if isinstance(record, CallRecord):
                out.pop(record.nonce, None)
            continue
        said = orjson.loads(body)
        if "sent" in said:
            unknown = record_of(orjson.dumps(said["sent"]))
            if isinstance(unknown, CallRecord):
                out[unknown.nonce] = unknown
        else:
            out.pop(said.get("unbilled", ""), None)
    return [*records, *out.values()]
