"""Submit a job once, whatever is interrupted, and by however many workers it is tried.

    intent      put if absent: the digest of the content, and its custom ids' prefix
    upload      where the provider takes files; a file that nobody uses harms nothing
    claim       put if absent, with a number: one worker's turn to create the job, for a limited time
    create      only within that time
    submitted   the provider's id

A claim without an id, when its time is over, is of a worker that died, or whose reply was lost: the job is looked for
at the provider and adopted. If it is not there, the claim's file is removed first, so that a worker that was only
asleep cannot create the job any more; then the next claim is made. Before that time nobody else creates anything.
Where content goes with the creation (Anthropic), the time alone protects: whoever finds another id recorded than that
of the job he created cancels his.
"""

import asyncio
import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.provider_jobs import learned
from pipeline.provider_jobs.base import Content, JobClient, Undecided
from pipeline.provider_jobs.requests import Pool, write_content
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import FatalModelError, ModelError, ObjectExists, RowError, TransientModelError
from schemas.jobs import Claim, Intent, JobState, Refusal, Submitted

_CANCELLED = "cancelled before it was submitted"
TOO_SMALL = "too_small"  # the code of a job with fewer requests than the provider takes
_LONGEST_S = 3 * 86_400.0  # after which a job is over, though nobody collected it: providers give up before
_FULL = re.compile(r"token_limit_exceeded|enqueued|too many (batches|jobs)|batch.{0,20}(quota|limit)", re.I)


@dataclass(frozen=True)
class Patience:
    """Seconds. `pause_s`: before another attempt, the first time; `prepared_s`: from a claim to the request that
    creates the job; `margin_s`: for clocks of machines, and lists of a provider that lag behind."""

    pause_s: float = 60.0
    prepared_s: float = 30.0
    margin_s: float = 60.0

    @classmethod
    def of_margin(cls, margin_s: float) -> "Patience":
        """Return the times that go with a margin, in the proportions of the defaults."""
        return cls(pause_s=margin_s, prepared_s=margin_s / 2, margin_s=margin_s)


async def submit(
    store: Store, run: str, pool: str, job: str, client: JobClient, *, patience: Patience | None = None
) -> JobState:
    """Submit a job, or find out that it was submitted. Returns its state: `waiting` if it is to be tried again. Raises
    FatalModelError, StoreError, Damaged."""
    return await Submission(Pool(store, run, pool), job, client, patience or Patience()).run()


async def withdraw(
    store: Store, run: str, pool: str, job: str, client: JobClient, *, patience: Patience | None = None
) -> JobState:
    """Make sure that a job will not be submitted, or find out that it was. Returns its state: `waiting` as long as that
    is not known. Raises FatalModelError, StoreError, Damaged."""
    return await Submission(Pool(store, run, pool), job, client, patience or Patience()).withdraw()


def is_full(refusal: str) -> bool:
    """True for a refusal because too much is out already."""
    return _FULL.search(refusal) is not None


@dataclass(frozen=True)
class Submission:
    """One attempt to submit a job."""

    pool: Pool
    job: str
    client: JobClient
    patience: Patience

    async def run(self) -> JobState:
        return await self._unless_done(self._submit)

    async def withdraw(self) -> JobState:
        return await self._unless_done(self._withdraw)

    async def _unless_done(self, step: Callable[[], Awaitable[JobState]]) -> JobState:
        done = await asyncio.to_thread(self.pool.submitted, self.job)
        if done is not None:
            return state_of(self.job, done)
        try:
            return await step()
        except Undecided as exc:
            return self._waiting(str(exc), self.patience.pause_s)
        except TransientModelError as exc:
            return self._waiting(exc.message, max(self.patience.pause_s, exc.retry_after or 0.0))

    async def _submit(self) -> JobState:
        with tempfile.TemporaryDirectory(prefix="tandem-job-") as folder:
            write = partial(write_content, self.pool, self.job, self.client, Path(folder) / "content.jsonl")
            content: Content | None = None
            intent = await asyncio.to_thread(self.pool.intent, self.job)
            if intent is None:
                content = await asyncio.to_thread(write)
                intent = await asyncio.to_thread(self._intent, content)
            claims = await asyncio.to_thread(self._claims)
            number = max(claims, default=0)
            if (claim := claims.get(number)) is not None:
                state = await self._unless_created(intent, claim)
                if state is not None:
                    return state
            if intent.requests < self.client.limits.least:
                return await self._record(Submitted(id="", at=time.time(), refusals=(self._too_small(intent),)))
            if (wait_s := await asyncio.to_thread(self._pause, intent)) > 0:
                return self._waiting("the provider's queue is full", wait_s)
            if content is None:
                content = await asyncio.to_thread(write)
            return await self._create(intent, content, number + 1)

    def _too_small(self, intent: Intent) -> Refusal:
        least = self.client.limits.least
        return Refusal(message=f"{intent.requests:,} calls; a job takes {least:,} or more", code=TOO_SMALL)

    async def _withdraw(self) -> JobState:
        """Look for the job; if it surely was not created, take the next claim, so that nobody else can create it."""
        intent = await asyncio.to_thread(self.pool.intent, self.job)
        claims = await asyncio.to_thread(self._claims)
        number = max(claims, default=0)
        if intent is not None and (claim := claims.get(number)) is not None:
            state = await self._unless_created(intent, claim)
            if state is not None:
                return state
        now = time.time()
        if not await asyncio.to_thread(self._put_claim, Claim(at=now, until=now, by=_process()), number + 1):
            return self._waiting("another worker may be creating it", self.patience.prepared_s)
        refused = Refusal(message=_CANCELLED, code="cancelled")
        return await self._record(Submitted(id="", at=now, refusals=(refused,)))

    async def _unless_created(self, intent: Intent, claim: Claim) -> JobState | None:
        """Return the state of the job that a claim has led to, or may still lead to; None if it never will."""
        if (id := await self._found(intent)) is not None:
            return await self._adopt(id)
        over = claim.at if _is_dead(claim.by) else claim.until
        left = over + self.patience.margin_s - time.time()
        if left > 0:
            return self._waiting("another worker may be creating it", left)
        if claim.file:
            # It may be gone already. Where that is not known, nothing is created yet: the claim's worker still could.
            with suppress(RowError, FatalModelError):
                await self.client.withdraw(claim.file)
            if (id := await self._found(intent)) is not None:
                return await self._adopt(id)
        return None

    async def _create(self, intent: Intent, content: Content, number: int) -> JobState:
        try:
            file = await self.client.upload(intent, content)
        except RowError as exc:  # nothing was created by an upload, so nothing is claimed
            return await self._refused(exc, None)
        now = time.time()
        claim = Claim(at=now, until=now + self.patience.prepared_s + self.client.create_s, by=_process(), file=file)
        if not await asyncio.to_thread(self._put_claim, claim, number):
            if file:
                with suppress(ModelError, FatalModelError):
                    await self.client.withdraw(file)
            return self._waiting("another worker may be creating it", self.patience.prepared_s)
        if time.time() - claim.at > self.patience.prepared_s:
            return self._waiting("the machine was asleep", claim.until + self.patience.margin_s - time.time())
        try:
            id = await self.client.create(intent, content, file)
        except RowError as exc:
            return await self._refused(exc, number)
        except TransientModelError as exc:
            if exc.congestion == "rate":
                return await self._refused(exc, number)
            raise
        except FatalModelError:
            await asyncio.to_thread(self._mark_refused, number)
            raise
        return await self._record(Submitted(id=id, at=time.time()))

    async def _refused(self, error: RowError | TransientModelError, number: int | None) -> JobState:
        """Record that the provider created nothing: for a while, or for good. A worker that another one has overtaken
        has nothing to record."""
        if number is not None:
            await asyncio.to_thread(self._mark_refused, number)
            if max(await asyncio.to_thread(self._claims)) > number:
                return self._waiting("another worker may be creating it", self.patience.prepared_s)
        if isinstance(error, TransientModelError) or is_full(error.message):
            asked = getattr(error, "retry_after", None) or 0.0
            pause_s = max(self.patience.pause_s, asked)
            limits = await asyncio.to_thread(learned.note_full_queue, *self._place, error.message, pause_s)
            return self._waiting(error.message, limits.not_before - time.time())
        refusal = self.client.refusal(error)
        code = "too_large" if error.status == 413 or error.kind == "context_length" else refusal.code
        found = Refusal(message=refusal.message, code=code, line=refusal.line)
        return await self._record(Submitted(id="", at=time.time(), refusals=(found,)))

    async def _found(self, intent: Intent) -> str | None:
        return await self.client.find(intent, await asyncio.to_thread(self._ids_of_others))

    async def _adopt(self, id: str) -> JobState:
        return await self._record(Submitted(id=id, at=time.time(), adopted=True))

    async def _record(self, done: Submitted) -> JobState:
        """Record the provider's id. If another one is there already, ours is cancelled: it was created too many."""
        key = ids.job_submitted(self.pool.run, self.pool.name, self.job)
        await asyncio.to_thread(self.pool.store.put_absent, key, done.model_dump_json().encode())
        first = await asyncio.to_thread(read_document, self.pool.store, key, Submitted)
        if done.id and first.id != done.id:
            await self.client.cancel(done.id)
        return state_of(self.job, first)

    # In the store: blocking -------------------------------------------------------------------------------------------

    @property
    def _place(self) -> tuple[Store, str, str]:
        return self.pool.store, self.pool.run, self.pool.name

    def _intent(self, content: Content) -> Intent:
        """Return the intent: the first one that was written."""
        held = self.pool.requests_of(self.job)
        intent = Intent(
            job=self.job,
            digest=content.digest,
            requests=content.requests,
            bytes=content.bytes,
            tokens=content.tokens,
            prefix=f"{self.job}-",
            at=time.time(),
            model=held.model,
            most_nano_usd=held.most_nano_usd,
            most_tokens=held.most_tokens,
        )
        key = ids.job_intent(self.pool.run, self.pool.name, self.job)
        self.pool.store.put_absent(key, intent.model_dump_json().encode())
        return read_document(self.pool.store, key, Intent)

    def _claims(self) -> dict[int, Claim | None]:
        """Return the claims by their numbers; None for one of which the provider refused to create anything."""
        claims: dict[int, Claim | None] = {}
        folder = ids.job_claims(self.pool.run, self.pool.name, self.job)
        for info in self.pool.store.list(folder):
            name = info.key.removeprefix(folder).removesuffix(".json")
            number = int(name[:4])
            if name.endswith("-refused"):
                claims[number] = None
            elif number not in claims:
                claims[number] = read_document(self.pool.store, info.key, Claim)
        return claims

    def _put_claim(self, claim: Claim, number: int) -> bool:
        """Return True if the claim is ours."""
        key = ids.job_claim(self.pool.run, self.pool.name, self.job, number)
        with suppress(ObjectExists):
            self.pool.store.put_new(key, claim.model_dump_json().encode())
            return True
        return read_document(self.pool.store, key, Claim).by == claim.by  # a 412 may answer our own repeated put

    def _mark_refused(self, number: int) -> None:
        key = ids.job_claim_refused(self.pool.run, self.pool.name, self.job, number)
        self.pool.store.put_absent(key, b"{}")

    def _pause(self, intent: Intent) -> float:
        """Return the seconds to wait before anything is sent: the provider's queue was full, or what we have out would
        fill it."""
        limits = learned.load_limits(*self._place)
        left = limits.not_before - time.time()
        if left > 0 or limits.tokens is None:
            return left
        since = time.time() - _LONGEST_S
        out = [self.pool.intent(job) for job in self.pool.jobs() if self.pool.is_out(job, since)]
        tokens = sum(one.tokens for one in out if one is not None)
        return self.patience.pause_s if tokens and tokens + intent.tokens > limits.tokens else 0.0

    def _ids_of_others(self) -> frozenset[str]:
        """Return the ids of the pool's other jobs."""
        others = [self.pool.submitted(job) for job in self.pool.jobs() if job != self.job]
        return frozenset(done.id for done in others if done is not None)

    def _waiting(self, why: str, seconds: float) -> JobState:
        return JobState(job=self.job, state="waiting", message=why, wait_s=max(seconds, 0.0))


def state_of(job: str, done: Submitted) -> JobState:
    """Return the state of a job that was just submitted, or refused."""
    message = done.refusals[0].message if done.refusals else ""
    return JobState(job=job, state="queued" if done.id else "failed", id=done.id, message=message)


def _process() -> str:
    """Return a name of this process and moment, from which it can be seen on this machine whether it lives."""
    return f"{_machine()}/{os.getpid()}/{time.monotonic_ns()}"


def _machine() -> str:
    """Return the machine, and the space in which its process numbers hold."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        space = boot = uuid.uuid4().hex  # nothing can be known of others
    return f"{socket.gethostname()}/{boot}/{space}"


def _is_dead(process: str) -> bool:
    """True if a process of this machine has surely ended."""
    machine, _, rest = process.rpartition("/")
    machine, _, pid = machine.rpartition("/")
    if machine != _machine() or not rest:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
