"""Rows that may have killed the process they ran in: tried again in a process of their own, in halves.

    rows that were in flight when it died ─▶ all of them in a fresh process ─▶ it lives: they were innocent
                                                                           └▶ it dies: each half in a fresh process …
                                                      … a row that kills twice alone is rejected, as `killed_worker`

Only a process that died by itself counts: if something else killed it, that says nothing about rows. The code that
started the process knows the difference and reports it here.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.errors import TandemError
from schemas.parked import ParkedCall
from stages.contract import GraphStage
from stages.journal.records import Record, RowKey, RowRecord, now
from stages.models.row.parking import BatchParking

KILLED = "killed_worker"
_TIMES_ALONE = 2


@dataclass(frozen=True)
class GraphRow:
    """The first of `equal` rows of a batch that share a fingerprint."""

    key: RowKey
    id: str
    values: dict[str, Any]
    equal: int


@dataclass(frozen=True)
class Attempt:
    """Result of a process that ran rows: the records that it wrote. If it died by itself, `death` says how, and
    `in_flight` names the rows that ran then. `stopped`: the error that keeps the others from finishing; `parked`: calls
    of rows that wait for provider batch jobs."""

    records: Sequence[Record] = ()
    death: str = ""
    in_flight: frozenset[RowKey] = frozenset()
    stopped: TandemError | None = None
    parked: Sequence[ParkedCall] = ()


class Isolation(Protocol):
    """Processes for suspects."""

    def suspects(self, key: RowKey) -> bool:
        """True if the row was in flight when a process died."""

    async def attempt(
        self, stage: GraphStage, rows: Sequence[GraphRow], known: Iterable[Record], parking: BatchParking | None
    ) -> Attempt:
        """Run rows in a process of their own. `parking`: where their calls may wait for provider batch jobs."""

    async def over(self) -> None:
        """End the process: no more rows come."""


class RowWatch(Protocol):
    """Observes each row that is run, so that the parent still knows it if the process dies."""

    def began(self, stage: str, key: RowKey, id: str) -> int | None: ...

    def ended(self, number: int | None) -> None: ...


@dataclass
class Halves:
    """The order in which suspects are tried. `kills` counts the deaths that a row caused alone."""

    groups: list[list[GraphRow]]
    kills: Counter[RowKey] = field(default_factory=Counter)

    def after(self, group: Sequence[GraphRow], left: Sequence[GraphRow], tried: Attempt) -> GraphRow | None:
        """Queue the unfinished rows of a group. Returns the row that has now killed twice alone, if any."""
        if not tried.death:
            if left:
                self.groups.append(list(left))
            return None
        suspects = [row for row in left if row.key in tried.in_flight] or list(left)
        if rest := [row for row in left if row not in suspects]:
            self.groups.append(rest)
        if len(suspects) > 1:
            middle = len(suspects) // 2
            self.groups += [suspects[middle:], suspects[:middle]]
            return None
        for suspect in suspects:
            self.kills[suspect.key] += len(group) == 1
            if self.kills[suspect.key] >= _TIMES_ALONE:
                return suspect
            self.groups.append([suspect])
        return None


def killed_row(row: GraphRow, how: str, run: str) -> RowRecord:
    """Return the reject of a row that kills its process."""
    error = {
        "kind": KILLED,
        "message": f"the process that ran the row alone {how}, {_TIMES_ALONE} times",
        "raw": None,
        "calls": 0,
    }
    return RowRecord(*row.key, row.id, "rejected", None, error, (), run, now())


async def run_in_halves(
    rows: Sequence[GraphRow],
    run: str,
    attempt: Callable[[Sequence[GraphRow]], Awaitable[Attempt]],
    store: Callable[[Sequence[Record]], Awaitable[None]],
    is_left: Callable[[GraphRow], bool],
    is_over: Callable[[], bool],
) -> TandemError | None:
    """Try suspects until each has an outcome, or `is_over()`. `store` keeps records. Returns the error that stopped
    it."""
    halves = Halves([list(rows)])
    while halves.groups and not is_over():
        group = [row for row in halves.groups.pop() if is_left(row)]
        if not group:
            continue
        tried = await attempt(group)
        await store(tried.records)
        if tried.stopped is not None:
            return tried.stopped
        guilty = halves.after(group, [row for row in group if is_left(row)], tried)
        if guilty is not None:
            await store([killed_row(guilty, tried.death, run)])
    return None
