"""How partitions ended, one object each."""

from collections.abc import Iterator

from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.messages.partition import PartitionResult


def write_outcome(store: Store, run: str, result: PartitionResult) -> None:
    store.put(ids.outcome(run, result.partition), result.model_dump_json().encode())


def load_outcome(store: Store, run: str, partition: str) -> PartitionResult | None:
    """How a partition ended last in a run."""
    try:
        return PartitionResult.model_validate_json(store.get(ids.outcome(run, partition)))
    except ObjectMissing:
        return None


def outcomes(store: Store, run: str) -> Iterator[PartitionResult]:
    """How each partition of a run ended last."""
    for info in store.list(ids.outcomes(run)):
        yield PartitionResult.model_validate_json(store.get(info.key))
