"""Keys over the whole dataset (`checks: [{unique: dataset}]`): found when a run is planned, before anything is paid.

A partition that the run publishes is judged by its rows in the plan's snapshot of the source; any other one by its
current generation, if the run does not retire it. So the verdict does not depend on which partition is published first:
a row that moves between two partitions of the run is in one, and a key that both have is refused in both. What it finds
is stored for the run, an object for each partition concerned. Rows count that are rejected or filtered later, as the
key is the source's.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from pipeline.planning.batches import BATCH_BYTES, MOST_BATCH_ROWS, equal_batches, rows_within
from pipeline.planning.job import Job
from pipeline.progress_note import Note, unnoted
from pipeline.sinks import catalogue
from pipeline.sinks.key_buckets import KeyBuckets, published_identities
from pipeline.sinks.row_files import row_name
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ChecksFailed, ObjectMissing
from schemas.manifest import BrokenCheck, Noun
from schemas.plan import Decision, Plan
from schemas.spec.sections import Check, Spec
from stages.journal.fingerprints import row_ids

_SAMPLE = 5
HINT = (
    "Nothing was published or paid. Correct the source, or set severity: warn. If rows moved, run both partitions at "
    "once, without selectors; if the other partition is gone from the source, retire it: tandem run --prune"
)


class SharedKeys(Noun):
    """Keys of a partition that another one has, too: their number, and some of them with that other partition."""

    partition: str
    rows: int
    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def checks_of(spec: Spec) -> list[Check]:
    return [check for check in spec.checks if check.unique is not None]


def find(job: Job, store: Store, planned: Sequence[Decision], note: Note = unnoted) -> Iterator[SharedKeys]:
    """Yield the shared keys of each partition concerned, of those that run; those that it retires have no keys. Raises
    StoreError, InputChanged."""
    running = [decision.partition for decision in planned if decision.run]
    if not running or not checks_of(job.spec):
        return
    counts: dict[str, int] = {}
    samples: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        buckets = KeyBuckets(Path(folder))
        for partition in running:
            for identities, _ in _planned(job, partition):
                buckets.add(partition, identities)
                note(0)
        mine = set(running)
        judged = mine | {decision.partition for decision in planned if decision.retire}
        for manifest in catalogue.manifests(catalogue.published(store, note=note)):
            if manifest.partition not in judged and manifest.present:
                for identities in published_identities(store, manifest):
                    buckets.add(manifest.partition, identities)
                    note(0)
        for identity, partitions in buckets.shared():
            for partition in partitions:
                if partition in mine:
                    counts[partition] = counts.get(partition, 0) + 1
                    sample = samples.setdefault(partition, {})
                    if len(sample) < _SAMPLE:
                        sample[identity] = next(other for other in partitions if other != partition)
    for partition in sorted(counts):
        names = _names(job, partition, samples[partition])
        yield SharedKeys(
            partition=partition,
            rows=counts[partition],
            keys=tuple(names.values()),
            others=tuple(samples[partition][identity] for identity in names),
        )


def _planned(job: Job, partition: str) -> Iterator[tuple[list[str], pl.DataFrame]]:
    """Yield the identities and keys of a partition's rows in the snapshot, some at a time."""
    entry = job.snapshot.entry(partition)
    most = rows_within(BATCH_BYTES, job.snapshot.row_bytes(entry), MOST_BATCH_ROWS)
    key = job.spec.source.key
    for batch in equal_batches(entry, most, entry.rows):
        rows = job.snapshot.read(partition, batch.ranges)
        yield row_ids(rows, key), rows.select(key)


def _names(job: Job, partition: str, identities: dict[str, str]) -> dict[str, str]:
    """Return the keys of some identities as text, in the order of the rows."""
    found: dict[str, str] = {}
    for batch, keys in _planned(job, partition):
        found |= {one: row_name(keys.row(row, named=True)) for row, one in enumerate(batch) if one in identities}
        if len(found) == len(identities):
            break
    return found


# When a partition is opened and published ----------------------------------------------------------------------------


def broken(job: Job, store: Store, plan: Plan, partition: str) -> tuple[BrokenCheck, ...]:
    """Return the checks of unique keys that a partition breaks."""
    if not checks_of(job.spec):
        return ()
    try:
        return as_checks(job.spec, read_document(store, ids.shared_keys(plan.run, plan.plan_id, partition), SharedKeys))
    except ObjectMissing:
        return ()


def as_checks(spec: Spec, found: SharedKeys) -> tuple[BrokenCheck, ...]:
    return tuple(
        BrokenCheck(name=check.name, severity=check.severity, rows=found.rows, keys=found.keys, others=found.others)
        for check in checks_of(spec)
    )


def sentence(check: BrokenCheck) -> str:
    """Describe a broken check, without keys: it is stored where no row may be named."""
    others = list(dict.fromkeys(check.others))
    also = f" (as {', '.join(others)})" if others else ""
    return f"check {check.name!r} (unique: dataset): another partition{also} has {check.rows:,} of its keys, too"


def refusal(partition: str, checks: Sequence[BrokenCheck]) -> ChecksFailed | None:
    """Return the error of a partition that breaks a blocking check."""
    blocking = [sentence(check) for check in checks if check.severity == "block"]
    if not blocking:
        return None
    return ChecksFailed(f"{partition}: {'; '.join(blocking)}.", checks=checks, hint=HINT)
