"""Probe of a store: conditional writes, which publishing needs, and the permission to delete."""

import contextlib
import uuid

from pipeline.retry_policy import after_failure
from pipeline.stores.base import Store, is_passing
from schemas import ids
from schemas.errors import ObjectExists, SinkError, StoreError, StoreRefused


def probe(store: Store) -> None:
    """Put an object twice on condition that it is absent. Raises SinkError unless only the first put succeeds."""
    if not after_failure(lambda: _second_put_refused(store), on=is_passing, attempts=5):
        raise SinkError(
            f"{store.uri} ignores the condition of a conditional write (`If-None-Match: *`), so two writers could both "
            "publish the same generation.",
            hint="Use AWS S3, SeaweedFS, MinIO, another store that honours it, or a local folder.",
        )


def _second_put_refused(store: Store) -> bool:
    """Under a new key each time: a first put whose reply was lost would look like one that was refused."""
    key = f"{ids.TANDEM}/probe/{uuid.uuid4().hex}"
    store.put_new(key, b"Tandem asks whether conditional writes are honoured.")
    try:
        store.put_new(key, b"This must not be written.")
    except ObjectExists:
        return True
    finally:
        with contextlib.suppress(StoreError):  # a writer needs no right to delete
            store.delete([key])
    return False


def may_delete(store: Store) -> bool:
    """True if this writer may delete replaced files, tried with objects that do not exist."""
    try:
        store.delete([f"data/{uuid.uuid4().hex}", f"{ids.HISTORY}{uuid.uuid4().hex}"])
        return True
    except StoreRefused:
        return False
