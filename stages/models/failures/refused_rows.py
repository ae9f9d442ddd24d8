"""Whether a provider refuses a stage or its rows: the first rows of a stage, all refused alike, say it is the stage.

Counted are a provider's own refusals (400 to 422) of rows that differ, until one row is answered; not refusals for a
row's length or content, nor what a graph raises by itself, nor rows that need no call.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import FatalModelError

FIRST_ROWS = 20
# What differs between refusals of one kind: numbers, identifiers, and what is quoted.
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\b(?=\w*\d)[\w-]+|\s+")


@dataclass
class RefusedRows:
    """Of a stage, in a process. `undecided` until a row is answered, or refused in another way."""

    undecided: bool = True
    rows: set[str] = field(default_factory=set)
    _alike: str = ""

    def answered(self) -> None:
        """A row got through: whatever is refused now is the row's."""
        self.undecided = False
        self.rows.clear()

    def refused(self, row: str, error: Mapping[str, Any]) -> None:
        """Another row. Raises FatalModelError with the last of the first rows."""
        message = str(error.get("message"))
        alike = _VARIES.sub(" ", message.lower())
        if self.rows and alike != self._alike:
            self.answered()
            return
        self._alike = alike
        self.rows.add(row)
        if len(self.rows) >= FIRST_ROWS:
            self.rows.clear()  # who goes on with the run may have mended it
            raise FatalModelError(
                f"the provider refused the first {FIRST_ROWS} rows alike and answered none ({message})",
                hint="It refuses the stage, not its rows: mend its params, prompt, output or model, and run again.",
            )


def is_refusal(error: Mapping[str, Any] | None) -> bool:
    """Whether a reject, described, is a provider's refusal of a request as such."""
    return error is not None and error.get("kind") == "bad_request" and 400 <= (error.get("status") or 0) <= 422
