"""Publishing is one small conditional put: the writer that creates a generation's manifest has committed it.

Generations of a partition follow one another without gaps: a writer builds on the current one, its base, and tries to
create base + 1. The store lets exactly one of all that try succeed, so rivals and zombies lose there, whatever they
believe about themselves.

A put has three outcomes: written, refused, *unknown* (a reply that was lost). The unknown one is resolved by reading
the generation back and comparing nonces; a refusal too, as it may be the answer to a repeated put that won the first
time. A cancel takes part in the same race with a tombstone.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from pipeline.retry_policy import after_failure
from pipeline.stores.base import Store
from pipeline.stores.documents import damaged
from schemas import ids
from schemas.errors import Cancelled, CommitConflict, ObjectMissing, StoreError, StoreRefused
from schemas.manifest import FORMAT, Manifest, Reuse, Usage

_FENCE_ROUNDS = 10


class _NotWritten(Exception):
    """A put failed, and the generation was absent when read back."""


_PUTS = 5
_READS = 5


@dataclass(frozen=True, slots=True)
class Committed:
    """`manifest` is the one that readers now see: ours, or when adopted the winner's, which has equal content."""

    manifest: Manifest
    how: Literal["committed", "adopted"]


# Reading -----------------------------------------------------------------------------------------------------------


def generations(store: Store, partition: str, *, after: int = 0) -> Iterator[int]:
    """The generations above `after`, ascending, without reading them."""
    start = ids.commit(partition, after) if after else ""
    for info in store.list(ids.commits_of(partition), start_after=start):
        match ids.parse_commit(info.key):
            case (found, generation) if found == partition and generation > after:
                yield generation


def current(store: Store, partition: str, *, known: int = 0) -> Manifest | None:
    """Return the highest generation. A `known` one (from the catalogue) saves listing those before it."""
    last = max(generations(store, partition, after=known), default=known)
    return read_commit(store, partition, last) if last else None


def history(store: Store, partition: str, *, after: int = 0) -> Iterator[Manifest]:
    """The manifests of all generations above `after`, ascending."""
    for generation in generations(store, partition, after=after):
        manifest = read_commit(store, partition, generation)
        if manifest is not None:
            yield manifest


def read_commit(store: Store, partition: str, generation: int) -> Manifest | None:
    key = ids.commit(partition, generation)
    try:
        data = store.get(key)
    except ObjectMissing:
        return None
    try:
        found = json.loads(data)["format"]
        if found > FORMAT:
            raise StoreRefused(
                f"{store.uri}/{key} has format {found}; this version of Tandem reads up to {FORMAT}.",
                hint="Upgrade Tandem (`pip install -U tandem-pipeline`).",
            )
        return Manifest.model_validate_json(data)
    except (ValueError, TypeError, KeyError, ValidationError) as exc:
        raise damaged(store, key, data) from exc


def reopen(store: Store, partition: str, *, base: int) -> Manifest | None:
    """Return the generation to build on after a CommitConflict. A tombstone above the old base has fenced us too."""
    newest = None
    for newest in history(store, partition, after=base):
        if newest.kind == "tombstone":
            raise _cancelled(newest)
    return newest or (read_commit(store, partition, base) if base else None)


# Writing -----------------------------------------------------------------------------------------------------------


def commit(store: Store, draft: Manifest) -> Committed:
    """Create the draft's generation, once, or find the manifest that another writer created.

    Raises Cancelled, CommitConflict (with the winner), or StoreError when the store does not answer any more; its
    message says whether the generation was absent when last read or the outcome is unknown. Calling again with the
    same draft is always safe.
    """
    key = ids.commit(draft.partition, draft.generation)
    data = draft.model_dump_json().encode()

    def put() -> Committed:
        try:
            store.put_new(key, data)
            return Committed(draft, "committed")
        except (StoreError, OSError) as exc:
            winner = _read_back(store, draft, exc)
            if winner is not None:
                return _lost_or_won(draft, winner)
            if isinstance(exc, StoreRefused):
                raise
            raise _NotWritten(str(exc)) from exc

    try:
        return after_failure(put, on=_NotWritten, attempts=_PUTS)
    except _NotWritten as exc:
        raise StoreError(
            f"Generation {draft.generation} of {draft.partition!r} is not committed: {_PUTS} puts failed and it was "
            f"absent when read last. {exc}"
        ) from exc.__cause__


def _read_back(store: Store, draft: Manifest, failure: Exception) -> Manifest | None:
    """Return the generation's manifest, None if there is none. Raises StoreError if the outcome stays unknown."""
    try:
        return after_failure(
            lambda: read_commit(store, draft.partition, draft.generation), on=_may_pass, attempts=_READS
        )
    except (StoreError, OSError) as exc:
        raise StoreError(
            f"The outcome of committing generation {draft.generation} of {draft.partition!r} is unknown: the put "
            f"failed ({failure}) and reading it back failed too ({exc}).",
            hint="Once the store answers, run it again: nothing is published or paid for twice.",
        ) from exc


def _may_pass(exc: Exception) -> bool:
    return isinstance(exc, StoreError | OSError) and not isinstance(exc, StoreRefused)


def adoptable(store: Store, draft: Manifest) -> Manifest | None:
    """Return the manifest that already has the draft's generation, if its content is equal; None while the generation
    is free. Raises Cancelled, CommitConflict, as a commit would, before anything is uploaded for it."""
    winner = read_commit(store, draft.partition, draft.generation)
    return _lost_or_won(draft, winner).manifest if winner is not None else None


def _lost_or_won(draft: Manifest, winner: Manifest) -> Committed:
    if winner.nonce == draft.nonce:
        return Committed(winner, "committed")
    if winner.kind == "tombstone":
        raise _cancelled(winner)
    # A tombstone repeats its parent's digest and is no publication of it: it has nothing to adopt.
    if draft.kind != "tombstone" and draft.content_digest and winner.content_digest == draft.content_digest:
        return Committed(winner, "adopted")
    raise CommitConflict(
        f"Generation {winner.generation} of {winner.partition!r} was committed by run {winner.run!r} with other "
        "content.",
        winner=winner,
        hint="Run it again to build on that generation.",
    )


def _cancelled(tombstone: Manifest) -> Cancelled:
    return Cancelled(
        f"Generation {tombstone.generation} of {tombstone.partition!r} is the tombstone of cancelled run "
        f"{tombstone.run!r}; nothing was published."
    )


# Cancelling --------------------------------------------------------------------------------------------------------


def fence(
    store: Store,
    partition: str,
    *,
    run: str,
    pipeline: str,
    nonce: str,
    base: int | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Literal["fenced", "committed_first"]:
    """Ensure that no attempt of `run` can publish the partition after this returned, or report that it already has.

    `base` is the generation that the run built on, 0 for none; without it, only the current generation tells whether
    the run has committed. Any tombstone above the base will do (see `reopen`). `nonce` names this cancel: repeating
    the call repeats its effect.
    """
    if base is None:
        newest = current(store, partition)
        base = newest.generation if newest else 0
        if newest and newest.run == run and (newest.kind != "tombstone" or newest.nonce == nonce):
            base -= 1
    for _ in range(_FENCE_ROUNDS):
        newer = list(history(store, partition, after=base))
        if any(manifest.run == run and manifest.kind != "tombstone" for manifest in newer):
            return "committed_first"
        if any(manifest.kind == "tombstone" for manifest in newer):
            return "fenced"
        parent = newer[-1] if newer else read_commit(store, partition, base) if base else None
        try:
            commit(store, _tombstone(parent, partition, run=run, pipeline=pipeline, nonce=nonce, now=now()))
            return "fenced"
        except (Cancelled, CommitConflict):
            continue
    raise StoreError(f"{partition!r} could not be fenced: other runs committed {_FENCE_ROUNDS} generations meanwhile.")


def _tombstone(
    parent: Manifest | None, partition: str, *, run: str, pipeline: str, nonce: str, now: dt.datetime
) -> Manifest:
    """Make a tombstone: the parent's state again, under the cancel's nonce."""
    own = Manifest(
        kind="tombstone",
        pipeline=pipeline,
        partition=partition,
        generation=parent.generation + 1 if parent else 1,
        parent=parent.generation if parent else None,
        run=run,
        nonce=nonce,
        started_at=now,
        committed_at=now,
    )
    if parent is None:
        return own
    # A partial parent is still due: without an input fingerprint the partition counts as changed.
    kept = {"input_fingerprint": ""} if parent.kind == "partial" else {}
    changed = {name: getattr(own, name) for name in own.model_fields_set}
    return parent.model_copy(
        update={**changed, **kept, "attempt": 1, "reuse": Reuse(), "usage": Usage(), "warnings": ()}
    )
