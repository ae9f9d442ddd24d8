"""What refusals have shown of a provider's limits: sizes of jobs, tokens that may be out at once, a pause."""

import re

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


def full_queue(known: LearnedLimits, message: str, *, now: float, pause_s: float) -> LearnedLimits:
    """Return the limits after a refusal because too many tokens are out: wait, twice as long each time."""
    wait = pause_s * min(_LONGEST_PAUSE, 2**known.refusals)
    tokens = tokens_in(message)
    return known.model_copy(
        update={"tokens": tokens or known.tokens, "not_before": now + wait, "refusals": known.refusals + 1}
    )


def too_large(known: LearnedLimits, requests: int, size: int) -> LearnedLimits:
    """Return the limits after a job of this size was refused as too large: half of it."""
    return known.model_copy(update={"requests": max(1, requests // 2), "bytes": max(1, size // 2)})


def tokens_in(message: str) -> int | None:
    """Return the number of tokens that a refusal names as the limit: `Limit: 2,000,000 enqueued tokens`."""
    match = _LIMIT.search(message)
    if match is None:
        return None
    digits = re.sub(r"\D", "", match[1])
    return int(digits) * _UNITS[(match[2] or "").lower()] or None
