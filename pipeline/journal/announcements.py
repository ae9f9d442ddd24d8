"""Announcements: what the commands that work on one run have just answered, so that a row that is equal to another
command's is not paid for again. Processes of one command need none of this: they claim rows before they run them.

_tandem/runs/<run>/announced/<UTC time>-<command>-<nonce>.json    immutable: segments, and the hashes of their rows

A command learns of an answer within a few seconds: the flush of its segment, and one look of each side. Nothing is
lost without announcements; so a failing store only delays them. What a run's end leaves of them is removed with it.
"""

import asyncio
import datetime as dt
import logging
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import orjson

from pipeline.process_state import COMMAND, STATE
from pipeline.stores import Store
from schemas import ids
from schemas.errors import StoreError
from stages.execution.unsettled import is_shareable
from stages.journal.records import RowKey, RowRecord
from stages.journal.segments import UnknownFormat, decode_segment

log = logging.getLogger("tandem.journal")
_ALONE_S, _TOGETHER_S = 2.0, 1.0  # between two looks
_PRESENT_EVERY = dt.timedelta(seconds=60)
_SKEW = dt.timedelta(seconds=120)  # clocks of machines, and how long a command counts as present
_MOST = 200_000  # rows of others, about 20 MB: the latest, as those of published partitions are in the answer index
_MASK = (1 << 64) - 1
_KEPT_ALONE = 20_000  # rows that are kept for a command that may come


@dataclass(eq=False)
class Announcements:
    """The announcements of one run, for a process. `others`: commands that have lately been at work on it. The event
    loop notes and recalls while a thread looks, so what both change is locked."""

    store: Store
    run: str
    command: str = field(default_factory=lambda: COMMAND.name)
    others: frozenset[str] = frozenset()
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _places: dict[int, str] = field(default_factory=dict)  # row → segment
    _unannounced: deque[tuple[str, list[int]]] = field(default_factory=deque)
    _waiting: int = 0  # rows of these
    _reading: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _since: dict[str, str] = field(default_factory=dict)  # command → the first key by which it was seen
    _seen: set[str] = field(default_factory=set)
    _present: dt.datetime | None = None

    def note(self, segment: str, records: Sequence[RowRecord]) -> None:
        """Note rows whose records are stored in a segment now."""
        rows = [_number(record.key) for record in records if is_shareable(record)]
        if not rows:
            return
        with self._lock:
            self._unannounced.append((segment, rows))
            self._waiting += len(rows)
            while not self.others and self._waiting > _KEPT_ALONE:
                self._waiting -= len(self._unannounced.popleft()[1])

    def may_have(self, key: RowKey) -> bool:
        """Return False if surely no other command has announced an equal row."""
        return _number(key) in self._places

    async def recall(self, key: RowKey, remember: Callable[[RowRecord], None]) -> None:
        """Remember the records of the segment in which another command has answered an equal row. If it cannot be read,
        the row is run here."""
        segment = self._places.get(_number(key))
        if segment is None:
            return
        reading = self._reading.get(segment)
        if reading is None:  # equal rows of one segment come together
            reading = self._reading[segment] = asyncio.create_task(self._remember(segment, remember))
            reading.add_done_callback(lambda _: self._reading.pop(segment, None))
        await asyncio.shield(reading)
        with self._lock:
            self._places.pop(_number(key), None)

    async def _remember(self, segment: str, remember: Callable[[RowRecord], None]) -> None:
        try:
            records = decode_segment(await asyncio.to_thread(self.store.get, segment)).records
        except (StoreError, OSError, UnknownFormat) as exc:
            log.warning("answers of another command cannot be read: %s", exc)
            return
        for record in records:
            if isinstance(record, RowRecord) and is_shareable(record):
                with self._lock:
                    self._places.pop(_number(record.key), None)
                remember(replace(record, shared=True))

    def sort(self, rows: list[tuple[str, int]]) -> None:
        """Sort rows by their fingerprint (64 bits of it), as on a ring on which each command begins somewhere else:
        those with equal rows in the same order would run each at the same moment. The first begins at 0, the second at
        a half, then at a quarter and three quarters, and so on, so that nobody has to know how many there will be."""
        mine = self._since.get(self.command, "")
        rank = sum(stamp < mine for stamp in self._since.values())
        begin = int(f"{rank:064b}"[::-1], 2)
        rows.sort(key=lambda row: int(row[0][:16], 16) - begin & _MASK)

    def look(self) -> None:
        """Announce that this command is at work and what it has answered, and read what others have announced. In this
        order: of two commands that begin at once, one at least sees the other. Raises StoreError."""
        now = dt.datetime.now(dt.UTC)
        folder = ids.announced(self.run)
        if (self.others and self._unannounced) or self._present is None or now - self._present > _PRESENT_EVERY:
            self._announce(folder, now)
        commands: set[str] = set()
        for info in self.store.list(folder, start_after=f"{folder}{_stamp(now - _SKEW)}"):
            command = info.key.rsplit("-", 2)[1]
            if command == self.command:
                continue
            commands.add(command)
            self._since.setdefault(command, info.key)
            if info.key not in self._seen:
                self._read(info.key)
                self._seen.add(info.key)
        self.others = frozenset(commands)
        self._seen = {key for key in self._seen if key > f"{folder}{_stamp(now - 2 * _SKEW)}"}

    def _read(self, key: str) -> None:
        found = orjson.loads(self.store.get(key))
        with self._lock:
            for segment, rows in found:
                self._places.update(dict.fromkeys(rows, segment))
            while len(self._places) > _MOST:
                del self._places[next(iter(self._places))]

    def _announce(self, folder: str, now: dt.datetime) -> None:
        with self._lock:
            announced = list(self._unannounced)
        key = f"{folder}{_stamp(now)}-{self.command}-{uuid.uuid4().hex[:12]}.json"
        self.store.put_absent(key, orjson.dumps(announced))
        self._since.setdefault(self.command, key)
        with self._lock:
            for one in announced:
                if self._unannounced and self._unannounced[0] is one:  # else it was dropped meanwhile
                    self._waiting -= len(self._unannounced.popleft()[1])
        self._present = now


@dataclass
class AnnouncementsByRun:
    """The announcements of the runs that a process works on: one reader for all batches of a run."""

    _runs: dict[tuple[str, str], Announcements] = field(default_factory=dict)
    _running: dict[tuple[str, str], int] = field(default_factory=dict)
    _looking: dict[tuple[str, str], "asyncio.Task[None]"] = field(default_factory=dict)
    _kept: int = 4  # runs between whose batches there may be pauses

    @asynccontextmanager
    async def followed(self, store: Store, run: str) -> AsyncIterator[Announcements]:
        """Yield a run's announcements, which are followed within the block. They have been looked at once."""
        key = store.uri, run
        announcements = self._of(store, run)
        self._running[key] = self._running.get(key, 0) + 1
        if key not in self._looking:
            self._looking[key] = asyncio.create_task(_look(announcements))
        try:
            await announcements.looked.wait()
            yield announcements
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
                self._looking.pop(key).cancel()

    def _of(self, store: Store, run: str) -> Announcements:
        key = store.uri, run
        found = self._runs.pop(key, None) or Announcements(store, run)
        self._runs[key] = found
        for old in [old for old in self._runs if old not in self._running and old != key][: -self._kept]:
            del self._runs[old]
        return found


async def _look(announcements: Announcements) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:  # not in the default pool, all of whose threads nodes of users may hold
            await loop.run_in_executor(STATE.journal_writers, announcements.look)
        except Exception as exc:  # noqa: BLE001  whatever it is: batches wait for the first look, and lose only savings
            log.warning("announcements of run %s: %s: %s", announcements.run, type(exc).__name__, exc)
        announcements.looked.set()
        await asyncio.sleep(_TOGETHER_S if announcements.others else _ALONE_S)


def _number(key: RowKey) -> int:
    """Return 64 bits of a row's key. Rows of one number are told apart by their records."""
    return int(key[0][:16], 16) ^ int(key[1][:16], 16)


def _stamp(at: dt.datetime) -> str:
    return at.strftime("%Y%m%dT%H%M%S.%f")
