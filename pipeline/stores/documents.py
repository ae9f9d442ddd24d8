"""Our own JSON objects, read back: one that is empty, cut short or something else is named, with the way back."""

from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from pipeline.stores.base import Store
from schemas import ids
from schemas.errors import Damaged

Document = TypeVar("Document", bound=BaseModel)
_REPAIR = "Make it again with: tandem outputs repair"
_ANOTHER_RUN = "Start the work under another --name: what is answered is in the journal, and is not paid for again."


def read_document(store: Store, key: str, kind: type[Document]) -> Document:
    """The object under a key. Raises ObjectMissing, Damaged, StoreError."""
    data = store.get(key)
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise damaged(store, key, data) from exc


def damaged(store: Store, key: str, data: bytes) -> Damaged:
    """What to raise for an object that is not what it should be."""
    return Damaged(f"{store.uri}/{key} is damaged: {_how(data)}.", hint=way_back(key))


def _how(data: bytes) -> str:
    if not data:
        return "it is empty"
    try:
        orjson.loads(data)
    except ValueError:
        return f"its {len(data):,} bytes are cut short, or no JSON"
    return "it lacks what it should hold, or is of another version of Tandem"


def way_back(key: str) -> str:
    """What helps where an object under this key is damaged."""
    if key.startswith((ids.SCHEMA, ids.DATASET, ids.COMMITS)):
        return _REPAIR
    return _ANOTHER_RUN if key.startswith(ids.RUNS) else "See: tandem outputs verify"
