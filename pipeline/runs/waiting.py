"""Notes of partitions that wait for provider jobs: their run has no workflow for them meanwhile, and holds them."""

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing
from schemas.manifest import Noun


class Waiting(Noun):
    """The run that waits."""

    pipeline: str
    run: str


def note(store: Store, partition: str, waiting: Waiting) -> None:
    store.put(ids.job_holder(partition), waiting.model_dump_json().encode())


def waiting_run(store: Store, partition: str) -> Waiting | None:
    """Return the run that waits with calls of a partition, or did when it was ended; None if there is none."""
    try:
        return read_document(store, ids.job_holder(partition), Waiting)
    except (ObjectMissing, Damaged):
        return None


def forget(store: Store, partition: str) -> None:
    store.delete([ids.job_holder(partition)])
