"""Calls of forgotten rows that wait for provider jobs, or did: their texts are taken out of the files they are kept in.

A call leaves an empty one behind, as jobs know calls by their places. One that no job has sent yet is not sent any
more. What a provider has in files is deleted once its job's answers are in the journal; the receipt names jobs of which
some may be left.
"""

from dataclasses import replace

import orjson

from pipeline.forgetting.identities import Identities
from pipeline.provider_jobs.requests import load_parked
from pipeline.stores import Store
from schemas import ids
from schemas.parked import ParkedCall, encode
from stages.journal.records import CallKey


def remove_parked(store: Store, rows: Identities) -> None:
    """Take the rows' calls out of what is kept of every run's jobs. Raises StoreError, Damaged."""
    for run in store.folders(ids.RUNS):
        refused: dict[str, set[CallKey]] = {}
        for info in list(store.list(ids.parked_folder(run))):
            calls = load_parked(store, info.key)
            mine = [call for call in calls if rows.has(call.row)]
            if mine:
                partition = ids.parse_parked(info.key)[1]
                refused.setdefault(partition, set()).update((call.request, call.ordinal) for call in mine)
                store.put(info.key, encode(_emptied(call) if rows.has(call.row) else call for call in calls))
        for partition, keys in refused.items():
            _remove_refused(store, run, partition, keys)


def _emptied(call: ParkedCall) -> ParkedCall:
    return replace(call, request="", capped="", row="", print="", body={}, common="", messages="")


def _remove_refused(store: Store, run: str, partition: str, keys: set[CallKey]) -> None:
    """Take the refusals of these calls out: a provider may repeat what it was sent."""
    for info in list(store.list(ids.refused_calls(run, partition))):
        lines = store.get(info.key).splitlines()
        kept = [line for line in lines if tuple(orjson.loads(line)[:2]) not in keys]
        if len(kept) == len(lines):
            continue
        if kept:
            store.put(info.key, b"\n".join(kept) + b"\n")
        else:
            store.delete([info.key])
