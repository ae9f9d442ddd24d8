"""Detect that a provider refuses a stage, not its rows: it refuses the first rows of the stage with one message.

Only a provider's own refusals (400 to 422) of different rows count, until one row is answered; not refusals for a row's
length or content, errors of the graph itself, or rows that need no call.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import FatalModelError

FIRST_ROWS = 20
# Text that differs between refusals of one kind: numbers, identifiers, and quoted text.
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\b(?=\w*\d)[\w-]+|\s+")


@dataclass
class RefusedRows:
    """The refused rows of a stage in a process. `undecided` until a row is answered, or refused in another way.
    `verdicts`: how often the stage was found to be refused."""

    undecided: bool = True
    rows: set[str] = field(default_factory=set)
    verdicts: int = 0
    _pattern: str = ""
    _last: str = ""

    def record_answer(self) -> None:
        """Record an answered row: later refusals are refusals of rows."""
        self.undecided = False
        self.rows.clear()

    def record_refusal(self, row: str, error: Mapping[str, Any]) -> None:
        """Record a refused row. Raises FatalModelError at the last of the first rows."""
        message = str(error.get("message"))
        pattern = _VARIES.sub(" ", message.lower())
        if self.rows and pattern != self._pattern:
            self.record_answer()
            return
        self._pattern = pattern
        self.rows.add(row)
        if len(self.rows) >= FIRST_ROWS:
            self.rows.clear()  # the run may be resumed after a correction
            self.verdicts += 1
            self._last = message
            raise self._refused()

    def refused_since(self, verdicts: int) -> FatalModelError | None:
        """Return the verdict if there is one more than when a batch began: it met what others have met."""
        return self._refused() if self.undecided and self.verdicts > verdicts else None

    def _refused(self) -> FatalModelError:
        return FatalModelError(
            f"the provider refused the first {FIRST_ROWS} rows alike and answered none ({self._last})",
            hint="It refuses the stage, not its rows: correct its params, prompt, output or model, and run again.",
        )


def is_refusal(error: Mapping[str, Any] | None) -> bool:
    """True if the error of a reject is a provider's refusal of the request itself."""
    return error is not None and error.get("kind") == "bad_request" and 400 <= (error.get("status") or 0) <= 422
