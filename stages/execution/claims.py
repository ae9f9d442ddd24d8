"""Equal rows once, over processes that do not share memory: each row is claimed by one, the others take its answer."""

from collections.abc import Sequence
from typing import Protocol

from stages.journal.records import RowKey, RowRecord


class Claims(Protocol):
    """Of one batch."""

    async def claim(self, keys: Sequence[RowKey]) -> set[RowKey]:
        """Claim rows for this process; those that are another's already."""

    async def result(self, key: RowKey) -> RowRecord | None:
        """What the other process made of a row; None where it has nothing to give: then the row is ours."""

    def release(self, keys: Sequence[RowKey]) -> None:
        """The batch is over: what it has no answer for, it will not have."""
