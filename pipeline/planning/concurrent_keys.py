"""Keys that two runs published at the same time, in partitions that neither knew of when it was planned.

Each run, when it ends, compares what it published with what others published since its plan. Of two such runs, the one
that ends last sees the commits of both, so that no pair is missed; it names the keys in its report.
"""

import datetime as dt
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.planning.unique_keys import checks_of
from pipeline.runs import plan_pages
from pipeline.runs.row_names import names_in
from pipeline.sinks import commits, outcomes
from pipeline.sinks.key_buckets import KeyBuckets, published_identities
from pipeline.stores import Store
from schemas import ids
from schemas.manifest import BrokenCheck, Manifest
from schemas.spec.sections import Spec

_SKEW = dt.timedelta(minutes=10)  # between the clocks of store and planner
_SAMPLE = 5


def note_in_outcomes(store: Store, spec: Spec, run: str, plan_key: str) -> None:
    """Add the broken checks to the outcomes of the partitions that `run` published. Raises StoreError."""
    if not checks_of(spec) or not plan_key:
        return
    since = plan_pages.load_plan(store, plan_key).created_at - _SKEW
    published = {found.partition: found for found in outcomes.outcomes(store, run) if found.outcome == "published"}
    others = [found for found in _since(store, since) if found.run != run and found.partition not in published]
    if not published or not others:
        return
    for partition, check in _shared(store, spec, list(published), others):
        result = published[partition]
        if check.name not in {known.name for known in result.checks}:
            published[partition] = result.model_copy(update={"checks": (*result.checks, check)})
            outcomes.write_outcome(store, run, published[partition])


def _since(store: Store, since: dt.datetime) -> Iterator[Manifest]:
    """Yield the current manifests of partitions that were committed since."""
    found: dict[str, int] = {}
    for info in store.list(ids.COMMITS):
        parsed = ids.parse_commit(info.key)
        if parsed is not None and info.modified >= since:
            found[parsed[0]] = max(found.get(parsed[0], 0), parsed[1])
    for partition, generation in found.items():
        manifest = commits.current(store, partition, known=generation)
        if manifest is not None and manifest.present:
            yield manifest


def _shared(store: Store, spec: Spec, mine: list[str], others: list[Manifest]) -> Iterator[tuple[str, BrokenCheck]]:
    """Yield each check that a partition of `mine` breaks together with one of the others."""
    rows: dict[str, int] = {}
    samples: dict[str, dict[str, str]] = {}
    manifests = {partition: found for partition in mine if (found := commits.current(store, partition)) is not None}
    foreign = {manifest.partition for manifest in others}
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        buckets = KeyBuckets(Path(folder))
        for manifest in (*manifests.values(), *others):
            for identities in published_identities(store, manifest):
                buckets.add(manifest.partition, identities)
        for identity, partitions in buckets.shared():
            other = next((one for one in partitions if one in foreign), None)
            for partition in partitions if other is not None else ():
                if partition in manifests:
                    rows[partition] = rows.get(partition, 0) + 1
                    sample = samples.setdefault(partition, {})
                    if len(sample) < _SAMPLE:
                        sample[identity] = str(other)
    for partition, count in rows.items():
        sample = samples[partition]
        names = {one: name for one, name in names_in(store, manifests[partition], spec.source.key) if one in sample}
        keys, at = tuple(names.values()), tuple(sample[one] for one in names)
        for check in checks_of(spec):
            yield partition, BrokenCheck(name=check.name, severity=check.severity, rows=count, keys=keys, others=at)
