"""The requests behind calls, as they are kept in a partition's journal, for people."""

from collections.abc import Iterable
from typing import Any

import orjson
import polars as pl

from pipeline.journal import compacted
from pipeline.journal.record_frames import COMMON, REQUEST, REQUESTS
from pipeline.journal.segments import Reading
from pipeline.stores import Store
from stages.journal.records import CommonRecord, RequestRecord, record_of

NOT_KEPT = "not kept"
_COLUMNS = ("kind", "key", "body")


def requests_of(store: Store, partition: str, digests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return each of these requests that is kept: `model`, `settings` (stop words, then parameters) and `messages`, in
    the form of the Chat Completions API. Raises StoreError."""
    wanted = pl.Series(sorted(set(digests)), dtype=pl.String).implode()
    found: dict[str, RequestRecord] = {}
    commons: dict[str, CommonRecord] = {}
    for chunk in compacted.everything(store, partition, _COLUMNS, Reading(), _of_requests, requests=True):
        kind, key = pl.col("kind"), pl.col("key")
        mine = chunk.filter((kind == COMMON) | ((kind == REQUEST) & key.is_in(wanted)))
        for record in map(record_of, mine["body"].to_list()):
            if isinstance(record, RequestRecord):
                found[record.request] = record
            elif isinstance(record, CommonRecord):
                commons[record.common] = record
    return {digest: _whole(record, commons.get(record.common)) for digest, record in found.items()}


def _of_requests(chunk: pl.DataFrame) -> pl.Series:
    return chunk["kind"].is_in(REQUESTS)


def _whole(request: RequestRecord, common: CommonRecord | None) -> dict[str, Any]:
    before: dict[str, Any] = {"model": None, "settings": None, "messages": []}
    if common is not None:
        before |= orjson.loads(common.text)
    return {**before, "messages": [*before["messages"], *orjson.loads(request.messages)]}
