"""Probe of a store: conditional writes, which publishing needs, and the permission to delete."""

import contextlib
import uuid

from pipeline.stores.base import Store
from schemas import ids
from schemas.errors import ObjectExists, SinkError, StoreError, StoreRefused


def probe(store: Store) -> None:
    """Put an object twice on condition that it is absent. Raises SinkError unless only the first put succeeds."""
    key = f"{ids.TANDEM}/probe/{uuid.uuid4().hex}"
    store.put_new(key, b"Tandem asks whether conditional writes are honoured.")
    try:
        store.put_new(key, b"This must not be written.")
    except ObjectExists:
        return
    finally:
        with contextlib.suppress(StoreError):  # a writer needs no right to delete
            store.delete([key])
    raise SinkError(
        f"{store.uri} ignores the condition of a conditional write (`If-None-Match: *`), so two writers could both "
        "publish the same generation.",
        hint="Use AWS S3, SeaweedFS, MinIO, another store that honours it, or a local folder.",
    )


def may_delete(store: Store) -> bool:
    """True if this writer may delete replaced files, tried with objects that do not exist."""
    try:
        store.delete([f"data/{uuid.uuid4().hex}", f"{ids.HISTORY}{uuid.uuid4().hex}"])
        return True
    except StoreRefused:
        return False
