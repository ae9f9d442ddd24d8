"""Division of limits on concurrent calls among the processes of a command: `rows_in_flight` is for all together.

An idle process holds little, one that has waiting calls gets the free rest. A granted part is taken back only once its
process has confirmed the smaller one and its calls have ended, so the sum of possible calls is never above the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Grants = dict[str, tuple[int, int]]  # by limit: the part, and the number of the grant, which its process confirms


@dataclass
class Part:
    """One process's part of one limit: `granted` to it, `in_flight` of these are used; `hungry`: calls are waiting.
    `open`: by number, the grant that it acts on and those on their way to it."""

    granted: int = 0
    in_flight: int = 0
    hungry: bool = False
    open: dict[int, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return max(self.granted, self.in_flight, *self.open.values())

    def grant(self, part: int) -> tuple[int, int]:
        number = max(self.open, default=0) + 1
        self.granted = self.open[number] = part
        return part, number

    def confirm(self, number: int) -> None:
        self.open = {sent: part for sent, part in self.open.items() if sent >= number}


def targets(limit: int, parts: Mapping[int, Part]) -> dict[int, int]:
    """Return the target of each process: those not hungry get what they use and one more, the others equal shares of
    the rest; each gets at least one, if there are enough."""
    wants = {process: limit if part.hungry else min(limit, part.in_flight + 1) for process, part in parts.items()}
    left, granted = limit, {}
    for index, process in enumerate(sorted(wants, key=lambda process: (wants[process], process))):
        granted[process] = min(wants[process], left // (len(wants) - index))
        left -= granted[process]
    if left and granted:  # no process is hungry: the rest goes where the most is used
        most = max(granted, key=lambda process: (parts[process].in_flight, -process))
        granted[most] += left
    return granted


@dataclass
class Division:
    """The supervisor's side. Processes are numbers."""

    _parts: dict[str, dict[int, Part]] = field(default_factory=dict)
    _limits: dict[str, dict[int, int]] = field(default_factory=dict)

    def report(self, process: int, uses: Mapping[str, Any]) -> dict[int, Grants]:
        """Note a process's use of its limits, by key, and the last grant that it acts on. Returns the changed parts of
        each process."""
        changes: dict[int, Grants] = {}
        for key, (limit, in_flight, hungry, number) in uses.items():
            part = self._parts.setdefault(key, {}).setdefault(process, Part())
            part.in_flight, part.hungry = in_flight, hungry
            part.confirm(number)
            if limit:
                self._limits.setdefault(key, {})[process] = limit
            self._divide(key, changes)
        return changes

    def remove(self, process: int) -> dict[int, Grants]:
        """Free the parts of a process that has ended. Returns the changed parts of the others."""
        changes: dict[int, Grants] = {}
        for key, parts in self._parts.items():
            self._limits.get(key, {}).pop(process, None)
            if parts.pop(process, None) is not None:
                self._divide(key, changes)
        return changes

    def _divide(self, key: str, changes: dict[int, Grants]) -> None:
        parts, limits = self._parts[key], self._limits.get(key)
        if not limits or not parts:
            return
        limit = min(limits.values())
        target = targets(limit, parts)
        for process in sorted(parts, key=lambda process: target[process] - parts[process].granted):  # reductions first
            others = sum(part.held for other, part in parts.items() if other != process)
            granted = min(target[process], max(limit - others, 0))
            if granted != parts[process].granted:
                changes.setdefault(process, {})[key] = parts[process].grant(granted)
