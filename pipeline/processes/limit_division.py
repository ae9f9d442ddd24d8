"""Limits on calls at once, divided among the processes of a command: `rows_in_flight` holds for all of them together.

Who has nothing to do holds little, who is held back gets what is free. A part that was handed out is taken back only as
its calls end, so at no moment is the sum of what may be called above the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """One process's part of one limit: `granted` to it, of which `in_flight` are out; `hungry`: it is held back."""

    granted: int = 0
    in_flight: int = 0
    hungry: bool = False

    @property
    def held(self) -> int:
        return max(self.granted, self.in_flight)


def targets(limit: int, parts: Mapping[int, Part]) -> dict[int, int]:
    """What each should have: those who are not hungry what they use and one more, the others the rest in equal shares;
    each at least one, as far as that goes."""
    wants = {who: limit if part.hungry else min(limit, part.in_flight + 1) for who, part in parts.items()}
    left, given = limit, {}
    for place, who in enumerate(sorted(wants, key=lambda who: (wants[who], who))):
        given[who] = min(wants[who], left // (len(wants) - place))
        left -= given[who]
    if left and given:  # nobody is held back just now: it is at hand where the most is used
        most = max(given, key=lambda who: (parts[who].in_flight, -who))
        given[most] += left
    return given


@dataclass
class Division:
    """The supervisor's side. Processes are numbers."""

    _parts: dict[str, dict[int, Part]] = field(default_factory=dict)
    _limits: dict[str, dict[int, int]] = field(default_factory=dict)

    def report(self, who: int, said: Mapping[str, Any]) -> dict[int, dict[str, int]]:
        """What a process says of its limits, by key; what is to be told to whom."""
        changes: dict[int, dict[str, int]] = {}
        for key, (limit, in_flight, hungry) in said.items():
            part = self._parts.setdefault(key, {}).setdefault(who, Part())
            part.in_flight, part.hungry = in_flight, hungry
            if limit:
                self._limits.setdefault(key, {})[who] = limit
            self._divide(key, changes)
        return changes

    def left(self, who: int) -> dict[int, dict[str, int]]:
        """A process has gone: what it held is free."""
        changes: dict[int, dict[str, int]] = {}
        for key, parts in self._parts.items():
            self._limits.get(key, {}).pop(who, None)
            if parts.pop(who, None) is not None:
                self._divide(key, changes)
        return changes

    def _divide(self, key: str, changes: dict[int, dict[str, int]]) -> None:
        parts, limits = self._parts[key], self._limits.get(key)
        if not limits or not parts:
            return
        limit = min(limits.values())
        wanted = targets(limit, parts)
        for who in sorted(parts, key=lambda who: wanted[who] - parts[who].granted):  # first those who give back
            others = sum(part.held for other, part in parts.items() if other != who)
            granted = min(wanted[who], max(limit - others, 0))
            if granted != parts[who].granted:
                parts[who].granted = granted
                changes.setdefault(who, {})[key] = granted
