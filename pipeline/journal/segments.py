"""Segments: written by each attempt, read one at a time.

_tandem/journal/<partition>/segments/<run>/b<batch>/<nonce>.jsonl      immutable
"""

import asyncio
import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.process_state import STATE
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing
from stages.journal.records import Record, record_of
from stages.journal.segments import UnknownFormat, intact_bodies


@dataclass
class SegmentWriter:
    """Writes one batch attempt's segments, one at a time, under new names, so that attempts never collide. `last`: the
    key of the latest."""

    store: Store
    partition: str
    run: str
    batch: int
    last: str = ""

    async def put(self, data: bytes) -> None:
        key = ids.journal_segment(self.partition, self.run, self.batch, uuid.uuid4().hex)
        await asyncio.get_running_loop().run_in_executor(STATE.journal_writers, self.store.put_absent, key, data)
        self.last = key


@dataclass
class Reading:
    """Result of reading objects: `read` completely, `damage` in words, `gone` since they were listed, and the segments
    that are `merged` into compacted objects."""

    read: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)


def read_segments(store: Store, keys: Iterable[str], reading: Reading) -> Iterator[list[Record]]:
    """Yield the records of segments that are in no compacted object read so far, one segment at a time."""
    for key, bodies in _intact(store, keys, reading):
        records = [record for body in bodies if (record := record_of(body)) is not None]
        _note_torn(key, len(bodies) - len(records), reading)
        yield records


def read_bodies(store: Store, keys: Iterable[str], reading: Reading) -> Iterator[list[bytes]]:
    """Do as `read_segments`, but yield the JSON of the records."""
    yield from (bodies for _, bodies in _intact(store, keys, reading))


def _intact(store: Store, keys: Iterable[str], reading: Reading) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the key of each segment, with its records in JSON."""
    for key in keys:
        if key in reading.merged:
            continue
        try:
            bodies, torn = intact_bodies(store.get(key))
        except ObjectMissing:
            reading.gone.add(key)
            continue
        except UnknownFormat as exc:
            reading.damage.append(f"{key}: {exc}; its records are not used")
            continue
        _note_torn(key, torn, reading)
        reading.read.add(key)
        yield key, bodies


def _note_torn(key: str, torn: int, reading: Reading) -> None:
    if torn:
        reading.damage.append(f"{key}: {torn} torn record(s) dropped")


def load_batch(store: Store, partition: str, run: str, batch: int, damage: list[str] | None = None) -> list[Record]:
    """Load the records of earlier attempts of a batch; unreadable ones are named in `damage`."""
    keys = [info.key for info in store.list(ids.journal_batch(partition, run, batch))]
    reading = Reading()
    records = list(itertools.chain.from_iterable(read_segments(store, keys, reading)))
    if damage is not None:
        damage.extend(reading.damage)
    return records
