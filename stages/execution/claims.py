"""Equal rows once, over processes that do not share memory: one process claims a row, the others use its answer."""

from collections.abc import Sequence
from typing import Protocol

from stages.journal.records import RowKey, RowRecord


class Claims(Protocol):
    """The claims of one batch."""

    async def claim(self, keys: Sequence[RowKey]) -> set[RowKey]:
        """Claim rows for this process. Returns those that another process has claimed already."""

    async def result(self, key: RowKey) -> RowRecord | None:
        """Return the record of a row from the process that claimed it; None if it has none: then the row is ours."""

    def release(self, keys: Sequence[RowKey]) -> None:
        """End the claims: the batch is over, and will answer no more rows."""
