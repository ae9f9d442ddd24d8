"""Equal rows once, over processes that do not share memory: one process claims a row, the others use its answer."""

from collections.abc import Callable, Sequence
from typing import Protocol

from stages.journal.records import RowKey, RowRecord


class Announced(Protocol):
    """What other commands, with which there are no claims, have just answered."""

    def may_have(self, key: RowKey) -> bool:
        """Return False if surely none has announced an equal row. Must not wait."""

    async def recall(self, key: RowKey, remember: Callable[[RowRecord], None]) -> None:
        """Call `remember` with the record of an equal row, if one is found, and with others on the way."""

    def sort(self, rows: list[tuple[str, int]]) -> None:
        """Sort rows (fingerprint, position), so that each command begins with others."""


class Claims(Protocol):
    """The claims of one batch."""

    async def claim(self, keys: Sequence[RowKey]) -> set[RowKey]:
        """Claim rows for this process. Returns those that another process has claimed already."""

    async def result(self, key: RowKey) -> RowRecord | None:
        """Return the record of a row from the process that claimed it; None if it has none: then the row is ours."""

    def release(self, keys: Sequence[RowKey]) -> None:
        """End the claims: the batch is over, and will answer no more rows."""
