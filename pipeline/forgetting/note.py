"""The note of what is under way, and the receipt of what was done. Neither has a key, nor anything else of a row.

    _tandem/forgetting.json                    while a command is at work, or was killed at it
    _tandem/forgotten/<time>-<nonce>.json      receipts

Both name the rows by salted digests. The note has the salt, as a repeated command finds the rows again by it; the
receipt does not: its digests can be compared only by whoever kept the salt, which the command prints.
"""

import base64
import datetime as dt
import secrets
import uuid
from collections.abc import Iterable

from pipeline.forgetting.identities import ForgottenRow, Identities, salted
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.manifest import Noun


class Note(Noun):
    """What a command has begun: `rows` are digests of the ROWs, `ids` of all their identities. `partitions` hold or
    held them, `journals` have records of them. `found` counts what was found of them at the beginning, by kind."""

    started_at: dt.datetime
    nonce: str
    salt: str
    rows: tuple[str, ...]
    ids: tuple[str, ...]
    partitions: tuple[str, ...] = ()
    journals: tuple[str, ...] = ()
    found: dict[str, int] = {}
    kept_answers: int = 0

    @property
    def key(self) -> bytes:
        return base64.b64decode(self.salt)

    def identities(self, plain: Iterable[str] = ()) -> Identities:
        return Identities(frozenset(plain), self.key, frozenset(self.ids))

    def names(self, row: ForgottenRow) -> bool:
        return salted(self.key, row.text) in self.rows


class Receipt(Noun):
    """`removed`: objects' rows and records by kind; `kept_answers`: answers that rows which stay need, too. `rows` are
    salted digests of the ROWs."""

    format: int = 1
    pipeline: str
    started_at: dt.datetime
    finished_at: dt.datetime
    rows: tuple[str, ...]
    removed: dict[str, int]
    partitions: tuple[str, ...]
    kept_answers: int
    not_reached: tuple[str, ...]


def new_note(rows: Iterable[ForgottenRow], now: dt.datetime, earlier: Note | None = None) -> Note:
    """Return the note of rows that were found; with the rows of an earlier command that did not finish."""
    salt = earlier.key if earlier is not None else secrets.token_bytes(32)
    listed = list(rows)
    digests = dict.fromkeys([*(earlier.rows if earlier else ()), *(salted(salt, row.text) for row in listed)])
    identities = (salted(salt, id) for row in listed for id in sorted(row.ids))
    return Note(
        started_at=earlier.started_at if earlier is not None else now,
        nonce=earlier.nonce if earlier is not None else uuid.uuid4().hex[:8],
        salt=base64.b64encode(salt).decode(),
        rows=tuple(digests),
        ids=tuple(dict.fromkeys([*(earlier.ids if earlier else ()), *identities])),
    )


def read_note(store: Store) -> Note | None:
    """Return the note of a command that did not finish. Raises Damaged, StoreError."""
    try:
        return read_document(store, ids.FORGETTING, Note)
    except ObjectMissing:
        return None


def write_note(store: Store, note: Note) -> None:
    store.put(ids.FORGETTING, note.model_dump_json().encode())


def finish(store: Store, note: Note, receipt: Receipt) -> str:
    """Write the receipt, then remove the note. Returns the receipt's key."""
    key = ids.forgotten(note.started_at, note.nonce)
    store.put(key, receipt.model_dump_json(indent=2).encode())
    store.delete([ids.FORGETTING])
    return key
