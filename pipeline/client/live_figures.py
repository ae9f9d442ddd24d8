"""Figures of a run while it is followed: its pace, and its budget."""

import asyncio
import contextlib
import time
from collections import deque

from pipeline.client.run import Run
from pipeline.client.work_in_progress import WorkInProgress
from pipeline.limits import ledger
from pipeline.limits.ledger import Ledger
from schemas.errors import StoreError

_PACE_OVER_S = 30.0
_BUDGET_EVERY_S = 10.0


class BudgetFigures:
    """The budget of a run, read again now and then, as it may be raised while the run goes on."""

    def __init__(self, run: Run) -> None:
        self._file = ledger.of_run(run.store, run.request.run)
        self._read_at = -_BUDGET_EVERY_S
        self._ledger: Ledger | None = None

    async def update(self, work: WorkInProgress) -> None:
        """Set budget and cost from the ledger: it includes the cost of earlier executions of a resumed run."""
        if time.monotonic() - self._read_at >= _BUDGET_EVERY_S:
            self._read_at = time.monotonic()
            with contextlib.suppress(StoreError):
                self._ledger = await asyncio.to_thread(self._file.read)
        if self._ledger is not None and self._ledger.limits.nanos is not None:
            work.budget_usd = ledger.usd(self._ledger.limits.nanos)
            work.cost_usd = max(work.cost_usd, ledger.usd(self._ledger.spent.nanos))


class RowRate:
    """Rows per second over the last half minute, counted from the first look of this process."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, time: float, rows: int) -> None:
        if self._samples and rows < self._samples[-1][1]:
            self._samples.clear()  # a batch started again; its rows come back from the journal
        self._samples.append((time, rows))
        while len(self._samples) > 2 and time - self._samples[0][0] > _PACE_OVER_S:
            self._samples.popleft()

    @property
    def rows_per_s(self) -> float:
        if len(self._samples) < 2 or self._samples[-1][0] == self._samples[0][0]:
            return 0.0
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (last - first) / (ended - began)
