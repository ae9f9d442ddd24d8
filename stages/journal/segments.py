"""Segments: immutable objects that hold records, and the format of their lines.

A header line, then one line a record, `<crc32, 8 hex> <JSON>`. A torn line fails its checksum and costs only itself.
Compacted journals hold the same records as Parquet (`pipeline.journal.compacted`).
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import orjson

from stages.journal.records import CallRecord, Record, encode_record, is_record, record_of

FORMAT = 1
_LINE_START = re.compile(rb"[0-9a-f]{8} \{")


def encode_segment(records: Iterable[Record]) -> bytes:
    """Return header and lines."""
    return segment_of(line_of(encode_record(record)) for record in records)


def segment_of(lines: Iterable[bytes]) -> bytes:
    """Return header and lines that are encoded already."""
    return b"\n".join((orjson.dumps({"tandem_journal": FORMAT}), *lines)) + b"\n"


def line_of(body: bytes) -> bytes:
    """Return the line of a record's JSON, or of a note in a spool."""
    return b"%08x " % zlib.crc32(body) + body


@dataclass
class Segment:
    """The intact records of a segment, and the number of torn lines."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0


class UnknownFormat(Exception):
    """A segment written by another version: never guessed at."""


def decode_segment(data: bytes) -> Segment:
    """Return the records of a segment; torn lines are counted, not guessed. Raises UnknownFormat for another
    version's."""
    bodies, torn = intact_bodies(data)
    records = [record for body in bodies if (record := record_of(body)) is not None]
    return Segment(records, torn + len(bodies) - len(records))


def intact_bodies(data: bytes) -> tuple[list[bytes], int]:
    """Return the JSON of the records of a segment, and the number of torn lines. Raises UnknownFormat for another
    version's.

    A torn header loses nothing but itself: lines are self-describing, and a later format must seed its checksums
    (`zlib.crc32(body, FORMAT)`), so that its lines can never pass for ours.
    """
    header, *lines = data.split(b"\n")
    version = _version(header)
    if version is None:
        lines = [header, *lines]
    elif version != FORMAT:
        raise UnknownFormat(f"journal format {version!r}, this Tandem reads {FORMAT}")
    bodies: list[bytes] = []
    torn = 0 if header else 1
    for line in filter(None, lines):
        body = _checked(line)
        if body is not None and is_record(body):
            bodies.append(body)
            continue
        torn += 1
        bodies.extend(_within_torn(line))
    return bodies, torn


def _version(header: bytes) -> int | None:
    try:
        version = orjson.loads(header)["tandem_journal"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


def _within_torn(line: bytes) -> Iterator[bytes]:
    """Yield the records of a line whose break is torn: the line after it is intact."""
    for start in _LINE_START.finditer(line, 1):
        before, after = (_checked(part) for part in (line[: start.start() - 1], line[start.start() :]))
        yield from (body for body in (before, after) if body is not None and is_record(body))
        if after is not None:
            return


def _checked(line: bytes) -> bytes | None:
    """Return the body of a line if its checksum is right."""
    body = line[9:]
    return body if body and line[:9] == b"%08x " % zlib.crc32(body) else None


def decode_spool(data: bytes) -> list[Record]:
    """Return the records that a dead process noted since its last flush, and a call of unknown outcome for each request
    in flight. It was writing torn lines when it died."""
    records: list[Record] = []
    in_flight: dict[str, CallRecord] = {}
    for line in data.split(b"\n"):
        body = _checked(line)
        if body is None:
            continue
        if (record := record_of(body)) is not None:
            records.append(record)
            if isinstance(record, CallRecord):
                in_flight.pop(record.nonce, None)
            continue
        event = orjson.loads(body)
        if "sent" in event:
            unknown = record_of(orjson.dumps(event["sent"]))
            if isinstance(unknown, CallRecord):
                in_flight[unknown.nonce] = unknown
        else:
            in_flight.pop(event.get("unbilled", ""), None)
    return [*records, *in_flight.values()]
