"""Journal and commit under every fault that a store, a process and a rival can cause, by seed.

One virtual clock drives everything, so a seed gives the same history each time. Asynchronous parts (batches) run on an
event loop whose time jumps; what blocks (commit, open, compaction) runs in threads that hold a baton: each store call
takes a random virtual time, during which others go on. Before or after its effect it may fail, or never come back
because its process died.

    world (what Temporal does)   runs one after another over one partition: open → two batches → publish, attempts that
                                 are retried while the one before lives on as a zombie; cancels; a pause of 20 minutes
                                 here and there, so that what is old enough to be deleted is deleted
    real modules                 stages.journal.writer, pipeline.journal.compacted, pipeline.sinks.commits
    fakes                        a model that counts what it is paid for, and a publish that has one file

`python -m tests.faults.simulation SEED` prints a seed's history.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import hashlib
import json
import logging
import random
import selectors
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import orjson
import polars as pl

from pipeline.journal import compacted, compaction, join
from pipeline.journal.known_file import records_of
from pipeline.journal.segments import SegmentWriter
from pipeline.journal.usage import usage_of_run
from pipeline.publishing import cleanup, commit_partition
from pipeline.runs import requests
from pipeline.sinks import commits, generations
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.errors import Cancelled, CommitConflict, StoreError, TandemError
from schemas.manifest import Counts, DataFile, Manifest, Usage
from schemas.plan import Selection
from schemas.spec.loading import spec_from_mapping
from stages.journal.known import Known
from stages.journal.records import CallRecord, RowRecord
from stages.journal.segments import decode_segment
from stages.journal.writer import Journal

T = TypeVar("T")
DAY = "day=2026-11-01"
EPOCH = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
STAGE = "stage"
SPEC = spec_from_mapping(
    {
        "name": "p",
        "source": {"path": "rows.parquet"},
        "stages": [{"name": "s", "uses": "sql", "query": "SELECT * FROM rows"}],
        "sink": {"path": "out"},
    },
    base=Path(),
)
FLUSH_S = 1.0
_ATTEMPTS = 200
_LONGEST = 30.0  # real seconds between two store calls of a thread
LONG_S = 20 * 60.0  # longer than the grace of a compaction


class Died(BaseException):
    """The process of this thread was killed: nothing of it runs any more."""


# A clock, a loop and threads that the seed rules ---------------------------------------------------------------------


class _Jump(selectors.SelectSelector):
    """Nobody waits: the clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation hangs: nothing is due")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time is virtual; `run_in_executor` gives threads that run one at a time, each between two store calls."""

    def __init__(self, rng: random.Random) -> None:
        self.jump = _Jump()
        super().__init__(self.jump)
        self.rng = rng
        self.dead: set[str] = set()
        self.batons: set[_Baton] = set()
        self.graves: list[_Baton] = []  # what the dead awaited: without it their tasks would be collected, with a noise
        self.over = False

    def time(self) -> float:
        return self.jump.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        return _Baton(self, _owner.get(), func, args).future


class _Baton(threading.Thread):
    """A thread that runs only while the loop waits for it."""

    def __init__(self, loop: VirtualLoop, owner: str, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(daemon=True)
        self.loop = loop
        self.owner = owner
        self.future: asyncio.Future[Any] = loop.create_future()
        self._work = (func, args)
        self._mine, self._theirs = threading.Lock(), threading.Lock()  # plain locks: semaphores are slow
        self._mine.acquire()
        self._theirs.acquire()
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        self._over = False
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.loop.batons.add(self)
        self.start()
        self._hand_over()

    def _hand_over(self) -> None:
        """Let the thread run to its next pause, or its end."""
        self._mine.release()
        if not self._theirs.acquire(timeout=_LONGEST):
            raise RuntimeError("the simulation hangs: a thread waits for another, outside of the store's calls")
        if not self._over:
            return
        self.loop.batons.discard(self)
        if not self.future.done():
            value, error = self._outcome
            if isinstance(error, Died):
                self.loop.graves.append(self)  # whoever awaits it is dead too
                return
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)

    def run(self) -> None:
        self._mine.acquire()
        _here.baton = self
        func, args = self._work
        try:
            self._outcome = (func(*args), None)
        except BaseException as exc:
            self._outcome = (None, exc)
        self._over = True
        self._theirs.release()

    def pause(self, seconds: float) -> None:
        """Called in the thread: others run for so long. The dead do not come back."""
        self.loop.call_later(seconds, self._hand_over)
        self._theirs.release()
        self._mine.acquire()
        if self.loop.over or self.owner in self.loop.dead:
            raise Died

    def bury(self) -> None:
        """The history is over, and so is this thread."""
        while self.is_alive() and not self._over:
            self._mine.release()
            if not self._theirs.acquire(timeout=_LONGEST):
                return
        self.join()


class _Here(threading.local):
    baton: _Baton | None = None


_here = _Here()
# The attempt that the running task, and all that it starts, belongs to: one process each.
_owner: ContextVar[str] = ContextVar("owner", default="world")


def _sleep(seconds: float) -> None:
    baton = _here.baton
    if baton is not None:
        baton.pause(seconds)


def _uuid(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)


@contextmanager
def _ruled_by(seed: int, loop: VirtualLoop) -> Iterator[None]:
    """Nothing of the real clock and of real chance reaches the modules."""
    rng = random.Random(f"names {seed}")
    clock = mock.Mock(sleep=_sleep, time=lambda: EPOCH.timestamp() + loop.time())
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch("uuid.uuid4", side_effect=lambda: uuid.UUID(int=rng.getrandbits(128), version=4))
        )
        stack.enter_context(mock.patch("tenacity.nap.time", clock))  # where `pipeline.retry_policy` pauses
        stack.enter_context(mock.patch("stages.journal.records.time", clock))
        random.seed(seed)
        yield


# The world -----------------------------------------------------------------------------------------------------------


@dataclass
class Payment:
    """One call that the model was paid for, and what made it."""

    key: tuple[str, int]
    attempt: str
    run: str
    at: float
    nonce: str


@dataclass
class Attempt:
    """One try of one batch: what it could know, from when it began to read."""

    name: str
    run: str
    began: float
    number: int = -1  # of its batch
    opened: float = 0.0  # when `open` began to read the journal for it
    journal: Journal | None = None


@dataclass
class World:
    """All that happens under one seed, and what must never."""

    seed: int
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    answered: dict[tuple[str, int], list[tuple[float, str, int]]] = field(default_factory=dict)  # when, run, batch
    fences: list[tuple[float, str]] = field(default_factory=list)
    stored: dict[str, float] = field(default_factory=dict)  # nonce → when
    committed: list[tuple[float, Manifest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.loop = VirtualLoop(self.rng)
        self.store = MemoryStore(fault=self._fault, now=lambda: EPOCH + dt.timedelta(seconds=self.loop.time()))
        self.error_rate = self.rng.choice((0.0, 0.02, 0.06))
        self.slow_rate = self.rng.choice((0.0, 0.02))
        self.calls_a_row = self.rng.randint(1, 3)
        self.rows = [f"row-{n}" for n in range(self.rng.randint(3, 8))]
        self.flush_records = self.rng.choice((4, 50))
        self.slowest_call_s = self.rng.choice((0.6, 2.0))
        self.quiet = False
        self.attempts = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.time():10.3f}  {text}")

    def violated(self, text: str) -> None:
        self.say(f"VIOLATED {text}")
        self.violations.append(text)

    # The store: slow, faulty, and observed ------------------------------------------------------------------------

    def _fault(self, operation: str, key: str) -> None:
        baton = _here.baton
        if baton is None or threading.current_thread() is not baton:
            return
        if operation.endswith(" done"):
            self._effect(operation.removesuffix(" done"), key)
        if self.quiet:
            return
        slow = self.rng.random() < self.slow_rate
        baton.pause(self.rng.uniform(0.3, 1.2) * (LONG_S if slow else 0.02))
        if self.rng.random() < self.error_rate:
            self.say(f"{baton.owner}: {operation} {key[-40:]} fails")
            raise StoreError(f"injected: {operation}")

    def _effect(self, operation: str, key: str) -> None:
        """What a write changed, noted at the moment it did."""
        if operation not in ("put_new", "put", "upload"):
            return
        if ids.parse_commit(key):
            manifest = Manifest.model_validate_json(self.store._objects[key][0])
            self.committed.append((self.loop.time(), manifest))
            self.say(f"commit {manifest.generation} {manifest.kind} by {manifest.run} as {manifest.nonce[:6]}")
        elif key.endswith(".jsonl") and "/segments/" in key:
            for record in decode_segment(self.store._objects[key][0]).records:
                if isinstance(record, CallRecord) and record.raw is not None:
                    self.answered.setdefault(record.key, []).append((self.loop.time(), record.run, record.batch))
                    self.stored.setdefault(record.nonce, self.loop.time())

    # A batch --------------------------------------------------------------------------------------------------------

    async def blocking(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.to_thread(func, *args, **kwargs)

    async def batch(
        self, run: str, number: int, rows: list[str], known_key: str | None, attempt: Attempt, base: int
    ) -> str:
        """Pay for what is not known, all rows at once, and stage the answers; the key of the staged object."""
        known = Known()
        if known_key is not None:
            for record in records_of(await self.blocking(self.store.get, known_key)):
                known.add(record)
        for record in await self.blocking(compacted.earlier_records, self.store, DAY, run, number, base):
            known.add(record)
        put = SegmentWriter(self.store, DAY, run, number).put
        journal = attempt.journal = Journal(put, known=known, flush_s=FLUSH_S, flush_records=self.flush_records)
        try:
            answers = await asyncio.gather(*(self._row(run, number, row, journal, attempt) for row in rows))
        finally:
            await journal.close()
        data = orjson.dumps(dict(zip(rows, answers, strict=True)))
        key = f"{ids.STAGING}b{number}-{hashlib.sha256(data).hexdigest()}.json"
        await self.blocking(self.store.put_absent, key, data)
        return key

    async def _row(self, run: str, number: int, row: str, journal: Journal, attempt: Attempt) -> list[str]:
        done = journal.known.rows.get((STAGE, row))
        if done is not None:
            return list(orjson.loads(done.answer or "[]"))
        answers, keys = [], []
        for call in range(self.calls_a_row):
            key = (f"{row}/{call}", 0)
            known = journal.known.calls.get(key)
            if known is None:
                known = await self._paid(run, number, row, key, journal, attempt)
            answers.append(known.raw or "")
            keys.append(key)
        await journal.append(
            RowRecord(STAGE, row, row, "ok", orjson.dumps(answers).decode(), None, tuple(keys), run, self._stamp())
        )
        return answers

    async def _paid(
        self, run: str, number: int, row: str, key: tuple[str, int], journal: Journal, attempt: Attempt
    ) -> CallRecord:
        """The provider bills when it answers, whether or not anybody is left to hear it."""
        nonce = uuid.uuid4().hex
        for when, by, batch in self.answered.get(key, ()):
            if when < attempt.opened or (when < attempt.began and (by, batch) == (run, number)):
                self.violated(f"{attempt.name} pays for {key[0]}, which was stored at {when:.3f} by {by}")
        await asyncio.sleep(self.rng.uniform(0.05, self.slowest_call_s))
        self.payments.append(Payment(key, attempt.name, run, self.loop.time(), nonce))
        self.say(f"{attempt.name}: pays for {key[0]}")
        answer = f"answer to {key[0]} no {len(self.payments)}"  # never the same twice, as with real models
        record = CallRecord(
            request=key[0], ordinal=key[1], id=row, model="m", raw=answer, error=None,
            usage={"input": 1, "output": 1}, cost_usd=1.0, request_id=nonce, latency_ms=1, run=run, batch=number,
            at=self._stamp(), nonce=nonce,
        )  # fmt: skip
        await journal.append(record)
        return record

    def _stamp(self) -> float:
        return EPOCH.timestamp() + self.loop.time()

    # Open and publish, as pipeline.enrichment.open and pipeline.publishing.publish do it
    # -------------------------------

    def _open(self, run: str, parts: list[list[str]]) -> tuple[int, list[str | None]]:
        current = commits.current(self.store, DAY)
        wanted = pl.concat(join.keys_of_batch(at, part) for at, part in enumerate(parts))
        known: list[str | None] = [None] * len(parts)
        with tempfile.TemporaryDirectory(prefix="tandem-sim-") as folder:
            files, damage = join.split_by_batch(self.store, DAY, wanted, Path(folder))
            if damage:
                self.violated(f"{run}: a sound journal is told to be damaged: {damage}")
            for number, path in files.items():
                data = path.read_bytes()
                known[number] = f"{ids.STAGING}known-{hashlib.sha256(data).hexdigest()}.arrow"
                self.store.put_absent(str(known[number]), data)
        return (current.generation if current else 0), known

    def _publish(self, run: str, base: int, staged: list[str], attempt: str) -> Manifest:
        table: dict[str, list[str]] = {}
        for key in staged:
            table |= orjson.loads(self.store.get(key))
        data = orjson.dumps(table)
        content = hashlib.sha256(data).hexdigest()
        key = ids.part_file(ids.data_folder(DAY), 0, base + 1, content)
        stored_before = set(self.stored)
        usage = usage_of_run(self.store, DAY, run)
        self._check_usage(run, usage, stored_before)
        now = self._now()
        draft = Manifest(
            kind="published", pipeline="p", partition=DAY, generation=base + 1, parent=base or None,
            files=(DataFile(key=key, size=len(data), sha256=content, rows=len(table)),), content_digest=content,
            stage_fingerprints={"s": STAGE}, counts=Counts(rows_in=len(table), ok=len(table), out=len(table)),
            usage=usage, run=run, nonce=uuid.uuid4().hex, started_at=now, committed_at=now,
        )  # fmt: skip
        upload = functools.partial(self.store.put_absent, key, data)
        committed = commit_partition.commit(SPEC, Path(), self.store, draft, upload)
        try:
            if generations.settle(self.store, committed, generations.retention_of(SPEC.sink), self._now()) is None:
                done = [m.key for m in generations.marks(self.store, DAY) if m.generation <= committed.generation]
                self.store.delete(done)
            compaction.compact(self.store, DAY, self._now())
        except (TandemError, OSError) as exc:
            self.say(f"{attempt}: not tidied up: {type(exc).__name__}")
        return committed

    def _now(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=self.loop.time())

    def _begin(self, run: str) -> None:
        requests.write_request(self.store, SPEC, Path(), Selection(), run)
        cleanup.sweep(self.store, self._now())

    def _end(self, run: str) -> None:
        self.store.put(ids.report(run), b"{}")
        cleanup.sweep(self.store, self._now(), ended=run)

    def _check_glob(self, when: str) -> None:
        """Whoever reads `data/` by a glob sees the files of the live generation and no others."""
        found = {key for key in self.store._objects if key.startswith("data/") and key.endswith(".parquet")}
        live = {file.key for file in self.committed[-1][1].files} if self.committed else set()
        if found != live:
            self.violated(f"{when}: a glob reads {sorted(found)}, live are {sorted(live)}")

    def _check_usage(self, run: str, usage: Usage, before: set[str]) -> None:
        mine = [payment for payment in self.payments if payment.run == run]
        durable = sum(payment.nonce in before for payment in mine)
        if not durable <= usage.calls <= len(mine):
            self.violated(f"{run}: usage tells of {usage.calls} calls; {durable} were stored, {len(mine)} paid")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A zombie's failure is nobody's business."""
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()

    # What Temporal does -----------------------------------------------------------------------------------------------

    async def activity(self, name: str, work: Callable[[Attempt], Any], run: str) -> Any:
        """Try until one attempt ends well. An attempt may die at any moment, or be taken for dead and go on."""
        for number in range(1, _ATTEMPTS):
            self.attempts += 1
            attempt = Attempt(f"{name}#{number}", run, self.loop.time())
            owner = f"{attempt.name}@{self.attempts}"
            task = asyncio.create_task(_owned(owner, work, attempt), name=owner)
            self.tasks.add(task)
            task.add_done_callback(self._ended)
            patience = self.rng.uniform(0.02, 3.0) if self.rng.random() < 0.35 and number < 6 else LONG_S * 1000
            done, _ = await asyncio.wait((task,), timeout=patience)
            if done:
                if task.cancelled():
                    continue
                error = task.exception()
                if error is None:
                    return task.result()
                self.say(f"{attempt.name}: {type(error).__name__}: {error}")
                if not (isinstance(error, StoreError) and error.retryable):
                    raise error
            elif self.rng.random() < 0.5:
                self.say(f"{attempt.name}: is killed")
                self._check_loss(attempt)
                self.loop.dead.add(owner)
                self.tasks.discard(task)
                _kill(task, attempt)
            else:
                self.say(f"{attempt.name}: is taken for dead, and goes on")
            await asyncio.sleep(self.rng.uniform(0.01, 1.0))
        raise AssertionError(f"{name}: no attempt of {_ATTEMPTS} succeeded")

    def _check_loss(self, attempt: Attempt) -> None:
        """What a kill may lose: answers of the last flush interval. Where the store is quick, that is all."""
        if self.error_rate or self.slow_rate:
            return
        before = self.loop.time() - FLUSH_S - 0.25
        lost = [p for p in self.payments if p.attempt == attempt.name and p.at < before and p.nonce not in self.stored]
        if lost:
            self.violated(f"{attempt.name}: {len(lost)} answers, the first of {lost[0].at:.3f}, are not stored yet")

    async def partition(self, run: str, progress: dict[str, Any]) -> str:
        """One run over the partition: how it ended."""
        lost_to: int | None = None
        for reopen in range(2):
            half = max(1, len(self.rows) // 2)
            parts = [self.rows[:half], self.rows[half:]]

            async def opening(attempt: Attempt, lost: int | None = lost_to, p: Any = parts) -> Any:
                if lost is not None:
                    await self.blocking(commits.reopen, self.store, DAY, base=lost)
                return (attempt.began, *await self.blocking(self._open, run, p))

            began, base, known = await self.activity(f"{run} open", opening, run)
            progress["base"] = base

            async def one(number: int, p: Any = parts, k: Any = known, at: float = began, b: int = base) -> str:
                async def work(attempt: Attempt) -> str:
                    attempt.opened, attempt.number = at, number
                    return await self.batch(run, number, p[number], k[number], attempt, b)

                return str(await self.activity(f"{run} batch {number}", work, run))

            staged = list(await asyncio.gather(one(0), one(1)))

            async def publishing(attempt: Attempt, b: int = base, s: Any = staged) -> Manifest:
                return await self.blocking(self._publish, run, b, s, attempt.name)

            progress["publishing"] = True
            try:
                manifest = await self.activity(f"{run} publish", publishing, run)
            except CommitConflict:
                if reopen:
                    return "conflict"
                lost_to = base
                continue
            except Cancelled:
                return "cancelled"
            self._check_published(run, manifest)
            return "published"
        return "conflict"

    def _check_published(self, run: str, manifest: Manifest) -> None:
        current = self.store._objects.get(ids.commit(DAY, manifest.generation))
        if current is None:
            self.violated(f"{run}: was told of generation {manifest.generation}, which is not there")
        for file in manifest.files:
            held = self.store._objects.get(file.key) or self.store._objects.get(ids.history(file.key))
            if held is None and self.committed[-1][1].generation > manifest.generation + 1:
                continue  # others have published since, and one earlier generation is kept
            table = orjson.loads(held[0]) if held else {}
            answers = {row: [text.partition(" no ")[0] for text in table[row]] for row in table}
            wanted = {row: [f"answer to {row}/{n}" for n in range(self.calls_a_row)] for row in self.rows}
            if answers != wanted or list(table) != list(wanted):
                self.violated(f"{run}: published {sorted(table)}, not {sorted(wanted)}, or other answers")

    async def run_and_cancel(self, run: str) -> str:
        """A run, which is cancelled at some moment in a third of the cases. Once fenced it can commit nothing."""
        progress: dict[str, Any] = {"base": 0}
        work = asyncio.create_task(self.partition(run, progress), name=f"workflow {run}")
        if self.rng.random() < 0.35:
            await asyncio.wait((work,), timeout=self.rng.uniform(0.1, 6.0))
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                return await self._fenced(run, int(progress["base"]))
        return await work

    async def _fenced(self, run: str, base: int) -> str:
        nonce = uuid.uuid4().hex

        async def fencing(attempt: Attempt) -> str:
            return str(
                await self.blocking(commits.fence, self.store, DAY, run=run, pipeline="p", nonce=nonce, base=base)
            )

        told = str(await self.activity(f"{run} fence", fencing, run))
        at = self.loop.time()
        self.say(f"{run}: {told}")
        mine = [(when, m) for when, m in self.committed if m.run == run and m.kind != "tombstone"]
        if told == "fenced" and mine:
            self.violated(f"{run}: fenced, and had committed generation {mine[0][1].generation}")
        if told == "committed_first" and not mine:
            self.violated(f"{run}: told to have committed first, and has not")
        self.fences.append((at, run))
        return told

    async def live(self) -> None:
        """Two to four runs; the input grows, time passes; at the end zombies finish."""
        for number in range(self.rng.randint(2, 4)):
            rivals = [f"run-{number}", *([f"rival-{number}"] if self.rng.random() < 0.2 else [])]
            await asyncio.gather(*(self._one(run) for run in rivals))
            if not self.tasks:
                self._check_glob(f"after {rivals[-1]}")
            await asyncio.sleep(self.rng.choice((0.0, 0.5, LONG_S)))
            if self.rng.random() < 0.5:
                self.rows.append(f"row-{len(self.rows)}")
        self.quiet = True
        while self.tasks:
            await asyncio.wait(self.tasks)
        await self.activity("sweep", lambda attempt: self.blocking(cleanup.sweep, self.store, self._now()), "sweep")
        self._check_glob("at the end")
        self._check_history()

    async def _one(self, run: str) -> None:
        self.say(f"{run}: {len(self.rows)} rows")
        await self.activity(f"{run} begin", lambda attempt: self.blocking(self._begin, run), run)
        ended = await self.run_and_cancel(run)
        await self.activity(f"{run} end", lambda attempt: self.blocking(self._end, run), run)
        self.say(f"{run}: {ended}")
        if ended in ("conflict", "cancelled") and all(m.run == run for _, m in self.committed):
            self.violated(f"{run}: a conflict without a rival")

    def _check_history(self) -> None:
        generations = Counter(m.generation for _, m in self.committed)
        if sorted(generations) != list(range(1, len(generations) + 1)):
            self.violated(f"generations {sorted(generations)}")
        for generation, times in generations.items():
            if times > 1:
                self.violated(f"generation {generation} was written {times} times")
        for at, run in self.fences:
            late = [m.generation for when, m in self.committed if m.run == run and m.kind != "tombstone" and when > at]
            if late:
                self.violated(f"{run}: committed generation {late} after it was fenced at {at:.3f}")
        usage = Counter(m.run for _, m in self.committed if m.kind == "published")
        for run, times in usage.items():
            if times > 1:
                self.violated(f"{run} published {times} generations")

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def go(self) -> World:
        """Live it."""
        with _ruled_by(self.seed, self.loop):
            asyncio.set_event_loop(self.loop)
            try:
                self.loop.run_until_complete(self.loop.create_task(self.live(), name="world"))
            finally:
                self._bury()
                asyncio.set_event_loop(None)
        return self

    def _bury(self) -> None:
        """End the threads and tasks of the dead, which wait for ever."""
        self.loop.over = True
        for baton in tuple(self.loop.batons):
            baton.bury()
        self.loop.set_exception_handler(lambda loop, context: None)
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.wait(left, timeout=1.0) if left else asyncio.sleep(0))
        self.loop.close()


async def _owned(owner: str, work: Callable[[Attempt], Awaitable[Any]], attempt: Attempt) -> Any:
    _owner.set(owner)
    return await work(attempt)


def _kill(task: asyncio.Task[Any], attempt: Attempt) -> None:
    """SIGKILL: no cleanup runs. Its threads die at their next store call; its journal keeps nothing."""
    journal = attempt.journal
    if journal is not None:
        journal._unflushed = []
        journal._put = _nowhere
        journal._stop_timer()
    task.cancel()


async def _nowhere(data: bytes) -> None:
    await asyncio.Event().wait()


def simulate(seed: int) -> World:
    """The history of one seed."""
    return World(seed).go()


def main() -> None:
    logging.disable(logging.CRITICAL)
    world = simulate(int(sys.argv[1]))
    print("\n".join(world.trace))
    print(json.dumps({"seed": world.seed, "digest": world.digest, "violations": world.violations}, indent=2))


if __name__ == "__main__":
    main()
