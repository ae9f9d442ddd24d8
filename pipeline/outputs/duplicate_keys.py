"""Keys that rows of two published partitions have: `outputs verify` counts them for a check `unique: dataset`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.outputs import scan
from pipeline.runs.row_names import names_in
from pipeline.sinks.key_buckets import KeyBuckets, published_identities
from pipeline.stores import Store

_SAMPLE = 5


@dataclass(frozen=True)
class DuplicateKeys:
    """The number of keys in several partitions, and some of them as text, each with its partitions."""

    count: int
    sample: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def text(self) -> str:
        keys = "1 key is" if self.count == 1 else f"{self.count:,} keys are"
        return f"{keys} in two partitions: " + "; ".join(f"{key} in {' and '.join(at)}" for key, at in self.sample)


def find(store: Store, key: Sequence[str], partition: str | None = None) -> DuplicateKeys:
    """Compare the keys of all current generations, in bounded memory; with `partition`, find only those that are in it.
    Raises StoreError."""
    count, sample = 0, dict[str, tuple[str, ...]]()
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        buckets = KeyBuckets(Path(folder))
        for manifest in scan.manifests(store):
            for identities in published_identities(store, manifest):
                buckets.add(manifest.partition, identities)
        for identity, partitions in buckets.shared():
            if partition is None or partition in partitions:
                count += 1
                if len(sample) < _SAMPLE:
                    sample[identity] = tuple(partitions)
    names = _names(store, key, sample)
    return DuplicateKeys(count, tuple((names.get(identity, identity), at) for identity, at in sample.items()))


def _names(store: Store, key: Sequence[str], identities: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the keys of identities as text, of those whose key columns are published."""
    found: dict[str, str] = {}
    for partition in sorted({at[0] for at in identities.values()}):
        for manifest in scan.manifests(store, partition):
            found |= {one: name for one, name in names_in(store, manifest, list(key)) if one in identities}
    return found
