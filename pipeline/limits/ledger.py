"""Ledgers of budgets: the limits, the spent amount and the slices of worker processes, as objects in the sink.

    _tandem/runs/<run>/budget/<version, 12 digits>.json       of a run
    _tandem/budget/<UTC day>/<version, 12 digits>.json        of a pipeline on a day

A version is created once, by a conditional put of the one after the highest: if two processes take a slice at once, one
fails, reads the other's version, and tries again. Nothing here needs a workflow, an expiry or a clock: a ledger
outlives the processes, the server and its retention.

A slice is charged in full from the moment it is taken until its holder returns it with the spent amount. A holder that
is killed leaves its count in a file on its machine (`pipeline.limits.spend_file`); on other machines the count is
unknown, and the slice stays charged."""

import datetime as dt
import time
import uuid
from collections.abc import Callable

from pipeline.retry_policy import Overtaken, until_first
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing, StoreError
from schemas.manifest import Noun
from stages.limits.budget import NANOS, Amount

_KEPT = dt.timedelta(hours=1)
_TRIES = 500  # each fails because another process succeeded, so this many mean an error
_SPREAD_S = 0.2
_STALE_S = 60.0  # much less than that, so that the version that is put can't be one that was removed


class Slice(Noun):
    """The whole amount granted to a holder, with the part that it spent. `machine`: the place of its spend file; `day`:
    a UTC day that a provider job is charged to as well."""

    nanos: int
    tokens: int
    machine: str = ""
    day: str = ""

    @property
    def amount(self) -> Amount:
        return Amount(self.nanos, self.tokens)


class BudgetLimits(Noun):
    """None: no limit. `day_nanos` is the pipeline's, a UTC day, as known to this run. `asked_usd` is the spec's budget
    when it was last read: a spec that has changed since sets the budget, an unchanged one keeps a budget that was
    raised."""

    nanos: int | None = None
    tokens: int | None = None
    day_nanos: int | None = None
    asked_usd: float | None = None

    @property
    def any(self) -> bool:
        return (self.nanos, self.tokens, self.day_nanos) != (None, None, None)


class Ledger(Noun):
    """One version. `paused` is the message of a run that had to stop; taking a slice clears it. `wanted`: holders that
    need more, and the time (seconds since the epoch): other holders give up some of their free amount."""

    limits: BudgetLimits = BudgetLimits()
    nanos: int = 0
    tokens: int = 0
    slices: dict[str, Slice] = {}
    paused: str = ""
    wanted: dict[str, float] = {}
    writer: str = ""

    @property
    def spent(self) -> Amount:
        """The amount spent by holders that have closed their account."""
        return Amount(self.nanos, self.tokens)

    @property
    def charged(self) -> Amount:
        return sum((held.amount for held in self.slices.values()), self.spent)

    def with_slice(self, holder: str, granted: Amount, machine: str, day: str = "") -> "Ledger":
        slices = {**self.slices, holder: Slice(nanos=granted.nanos, tokens=granted.tokens, machine=machine, day=day)}
        wanted = {name: since for name, since in self.wanted.items() if name != holder}
        return self.model_copy(update={"slices": slices, "paused": "", "wanted": wanted})

    def with_request_of(self, holder: str, now: float) -> "Ledger":
        return self.model_copy(update={"wanted": {**self.wanted, holder: now}})

    def closed(self, holder: str, spent: Amount) -> "Ledger":
        """Remove a holder's slice, and charge the amount that it spent. Once only."""
        if holder not in self.slices:
            return self
        slices = {name: held for name, held in self.slices.items() if name != holder}
        total = self.spent + spent
        return self.model_copy(update={"slices": slices, "nanos": total.nanos, "tokens": total.tokens})


def share(need: Amount, left: Amount, others: int = 0) -> Amount | None:
    """Return a slice for calls of this size: enough for a thousand of them, or a sixty-fourth of the rest if that is
    more, and at most an equal part if `others` hold slices too. So a single process takes the end of a budget in one
    step, at full speed, and several all get a part. None if not even one call fits."""
    if need.nanos > left.nanos or need.tokens > left.tokens:
        return None
    return Amount(_share(need.nanos, left.nanos, others), _share(need.tokens, left.tokens, others))


def _share(need: int, left: int, others: int) -> int:
    return max(need, min(left // (others + 1), max(1024 * need, left // 64)))


def usd(nanos: int) -> float:
    return nanos / NANOS


# Versions ----------------------------------------------------------------------------------------------------------


class LedgerStore:
    """A ledger in a store. Calls block."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder
        self._seen = 0

    def read(self) -> Ledger | None:
        """Return the latest version; None if there is none yet."""
        return self._latest()[1]

    def change(self, change: Callable[[Ledger], Ledger]) -> Ledger:
        """Apply a change to the latest version, again if another process was first. Returns the result; an empty change
        writes nothing. Raises StoreError."""
        try:
            return until_first(lambda: self._change_once(change), attempts=_TRIES, spread_s=_SPREAD_S)
        except Overtaken as exc:
            raise StoreError(
                f"{self.store.uri}/{self.folder}: other processes changed it first, {_TRIES} times in a row."
            ) from exc

    def _change_once(self, change: Callable[[Ledger], Ledger]) -> Ledger:
        began = time.monotonic()
        version, found = self._latest()
        before = found or Ledger()
        after = change(before)
        if after == before and found is not None:
            return before
        self._put(version + 1, after.model_copy(update={"writer": uuid.uuid4().hex}), began)
        return after

    def _latest(self) -> tuple[int, Ledger | None]:
        for _ in range(5):
            after = ids.budget_version(self.folder, self._seen - 1) if self._seen > 1 else ""
            keys = [info.key for info in self.store.list(self.folder, start_after=after)]
            if not keys:
                return 0, None
            try:
                found = read_document(self.store, keys[-1], Ledger)
            except ObjectMissing:  # removed since it was listed, being old
                continue
            self._seen = ids.parse_budget_version(keys[-1])
            return self._seen, found
        raise StoreError(f"{self.store.uri}/{self.folder}: the objects listed there cannot be read.")

    def _put(self, version: int, ledger: Ledger, began: float) -> None:
        """Create a version, or raise Overtaken. A put whose reply was lost is recognised by its writer."""
        if time.monotonic() - began > _STALE_S:
            raise Overtaken
        key = ids.budget_version(self.folder, version)
        if not self.store.put_absent(key, ledger.model_dump_json().encode()):
            existing = read_document(self.store, key, Ledger)
            if existing.writer != ledger.writer:
                raise Overtaken
        self._seen = version
        if version % 50 == 0:
            self._remove_old()

    def _remove_old(self) -> None:
        infos = list(self.store.list(self.folder))
        before = dt.datetime.now(dt.UTC) - _KEPT
        self.store.delete([info.key for info in infos[:-1] if info.modified < before])


def of_run(store: Store, run: str) -> LedgerStore:
    return LedgerStore(store, ids.budget_of_run(run))


def of_day(store: Store, day: dt.date) -> LedgerStore:
    return LedgerStore(store, ids.budget_of_day(day.isoformat()))
