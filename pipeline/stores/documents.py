"""Read our own JSON objects back: damaged ones raise an error with the damage and the repair."""

from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from pipeline.stores.base import Store
from schemas import ids
from schemas.errors import Damaged

Document = TypeVar("Document", bound=BaseModel)
_REPAIR = "Rebuild it with: tandem outputs repair"
_ANOTHER_RUN = "Run it again under another --name: answers are in the journal, and are not paid for again."


def read_document(store: Store, key: str, kind: type[Document]) -> Document:
    """Read the object under a key. Raises ObjectMissing, Damaged, StoreError."""
    data = store.get(key)
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise damaged(store, key, data) from exc


def damaged(store: Store, key: str, data: bytes) -> Damaged:
    """Return the error for a damaged object."""
    return Damaged(f"{store.uri}/{key} is damaged: {_damage(data)}.", hint=repair_hint(key))


def _damage(data: bytes) -> str:
    if not data:
        return "it is empty"
    try:
        orjson.loads(data)
    except ValueError:
        return f"its {len(data):,} bytes are cut short, or no JSON"
    return "fields are missing or wrong, or it is of another version of Tandem"


def repair_hint(key: str) -> str:
    """Return the hint for a damaged object under this key."""
    if key.startswith((ids.SCHEMA, ids.DATASET, ids.COMMITS)):
        return _REPAIR
    return _ANOTHER_RUN if key.startswith(ids.RUNS) else "See: tandem outputs verify"
