"""What refusals have shown of a provider's limits: sizes of jobs, tokens that may be out at once, a pause."""

import re
import time

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.jobs import LearnedLimits

_LONGEST_PAUSE = 10  # times the first
_LIMIT = re.compile(r"limit(?: of|:)?\s*(\d[\d,._]*)\s*([kmb])?(?:illion)?\b", re.I)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def load_limits(store: Store, run: str, pool: str) -> LearnedLimits:
    """Return what was learned so far. Raises StoreError, Damaged."""
    try:
        return read_document(store, ids.pool_limits(run, pool), LearnedLimits)
    except ObjectMissing:
        return LearnedLimits()


def save_limits(store: Store, run: str, pool: str, limits: LearnedLimits) -> None:
    store.put(ids.pool_limits(run, pool), limits.model_dump_json().encode())


def note_full_queue(store: Store, run: str, pool: str, message: str, pause_s: float) -> LearnedLimits:
    """Learn from a refusal because too many tokens are out: wait, twice as long each time."""
    known = load_limits(store, run, pool)
    wait = pause_s * min(_LONGEST_PAUSE, 2**known.refusals)
    update = {
        "tokens": tokens_in(message) or known.tokens,
        "not_before": time.time() + wait,
        "refusals": known.refusals + 1,
    }
    limits = known.model_copy(update=update)
    save_limits(store, run, pool, limits)
    return limits


def note_too_large(store: Store, run: str, pool: str, requests: int, size: int) -> None:
    """Learn that a job of this size is too large: half of it may not be."""
    known = load_limits(store, run, pool)
    update = {"requests": max(1, requests // 2), "bytes": max(1, size // 2)}
    save_limits(store, run, pool, known.model_copy(update=update))


def note_room(store: Store, run: str, pool: str) -> None:
    """Learn that the provider's queue took a job."""
    known = load_limits(store, run, pool)
    if known.refusals:
        save_limits(store, run, pool, known.model_copy(update={"refusals": 0, "not_before": 0.0}))


def tokens_in(message: str) -> int | None:
    """Return the number of tokens that a refusal names as the limit: `Limit: 2,000,000 enqueued tokens`."""
    match = _LIMIT.search(message)
    if match is None:
        return None
    digits = re.sub(r"\D", "", match[1])
    return int(digits) * _UNITS[(match[2] or "").lower()] or None
