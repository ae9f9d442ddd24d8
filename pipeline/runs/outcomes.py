"""Outcomes of partitions, one object each."""

import contextlib
from collections.abc import Iterator

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing
from schemas.messages.partition import PartitionResult


def write_outcome(store: Store, run: str, result: PartitionResult) -> None:
    store.put(ids.outcome(run, result.partition), result.model_dump_json().encode())


def load_outcome(store: Store, run: str, partition: str) -> PartitionResult | None:
    """Load the last outcome of a partition in a run."""
    try:
        return read_document(store, ids.outcome(run, partition), PartitionResult)
    except (ObjectMissing, Damaged):
        return None


def outcomes(store: Store, run: str) -> Iterator[PartitionResult]:
    """Yield the last outcome of each partition of a run."""
    for info in store.list(ids.outcomes(run)):
        with contextlib.suppress(Damaged):  # as if it had not ended: the commits have the published state
            yield read_document(store, info.key, PartitionResult)
