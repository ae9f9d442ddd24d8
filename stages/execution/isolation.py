"""Rows that may have killed the process they ran in: tried again in a process of their own, in halves.

    rows that were in flight when it died ─▶ all of them in a fresh process ─▶ it lives: they were innocent
                                                                           └▶ it dies: each half in a fresh process …
                                                      … a row that kills twice alone is rejected, as `killed_worker`

Only a death of the process's own counts: what somebody else kills says nothing of rows. Which that was is known to who
started the process; here it is told.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.errors import TandemError
from stages.contract import GraphStage
from stages.journal.records import Record, RowKey, RowRecord, now

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
    """How a process fared with rows: what it journalled, and, where it died by its own doing, `death` says how, and
    `in_flight` which rows it was at then. `stopped`: what keeps the rest from being finished."""

    records: Sequence[Record] = ()
    death: str = ""
    in_flight: frozenset[RowKey] = frozenset()
    stopped: TandemError | None = None


class Isolation(Protocol):
    """Processes for suspects."""

    def suspects(self, key: RowKey) -> bool:
        """Was the row in flight when a process died?"""

    async def attempt(self, stage: GraphStage, rows: Sequence[GraphRow], known: Iterable[Record]) -> Attempt:
        """Run rows in a process of their own."""

    async def over(self) -> None:
        """No more rows come; the process may end."""


class RowWatch(Protocol):
    """Is told of each row that is run, so that whoever outlives the process knows."""

    def began(self, stage: str, key: RowKey, id: str) -> int | None: ...

    def ended(self, number: int | None) -> None: ...


@dataclass
class Halves:
    """The order in which suspects are tried. `kills` counts the deaths that a row caused alone."""

    groups: list[list[GraphRow]]
    kills: Counter[RowKey] = field(default_factory=Counter)

    def after(self, group: Sequence[GraphRow], left: Sequence[GraphRow], tried: Attempt) -> GraphRow | None:
        """Line up what is left of a group; the row that has now killed twice alone, if it is one."""
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


def killed(row: GraphRow, how: str, run: str) -> RowRecord:
    """The reject of a row that ends whatever process it runs in."""
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
    take: Callable[[Sequence[Record]], Awaitable[None]],
    is_left: Callable[[GraphRow], bool],
    over: Callable[[], bool],
) -> TandemError | None:
    """Try suspects until each has an outcome, or `over`. `take` keeps what was journalled. Returns what stopped it."""
    halves = Halves([list(rows)])
    while halves.groups and not over():
        group = [row for row in halves.groups.pop() if is_left(row)]
        if not group:
            continue
        tried = await attempt(group)
        await take(tried.records)
        if tried.stopped is not None:
            return tried.stopped
        guilty = halves.after(group, [row for row in group if is_left(row)], tried)
        if guilty is not None:
            await take([killed(guilty, tried.death, run)])
    return None
