"""Objects that may repeat rows and that nothing needs: removed whole, and made again where they are derived."""

import datetime as dt
from collections.abc import Collection

from pipeline.journal.answers import coverage
from pipeline.journal.answers.index import AnswerIndex
from pipeline.journal.spool import Spools
from pipeline.progress_note import Note, unnoted
from pipeline.settings import current
from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas import ids

_LATER = dt.timedelta(days=365)  # a store's clock may be ahead


def absorb_spools(store: Store) -> None:
    """Store the records that killed processes left on this machine: a later run would take them over."""
    spools = Spools(current().spool_folder)
    partitions = {ids.partition_of_journal(info.key) for info in store.list(ids.JOURNAL)}
    partitions |= {parsed[0] for info in store.list(ids.COMMITS) if (parsed := ids.parse_commit(info.key)) is not None}
    partitions |= {one.partition for one in coverage.marked(store)}
    for partition in sorted(partitions):
        spools.absorb(store, partition)


def remove_staged(store: Store) -> None:
    """Remove what batches staged, and the rests of interrupted writes: no run is open that could need them."""
    store.delete([info.key for info in store.list(ids.STAGING)])
    store.abort_uploads(store.stale_uploads(dt.datetime.now(dt.UTC) + _LATER))


def remove_snapshots(store: Store, folders: Collection[str]) -> None:
    """Remove inputs that were split: their description first, so that a concurrent reader finds none."""
    keys = [info.key for folder in sorted(folders) for info in store.list(folder)]
    store.delete(sorted(keys, key=lambda key: not key.endswith("/snapshot.json")))


def rebuild_index(store: Store, journals: Collection[str], note: Note = unnoted) -> None:
    """Remove the files of the answer index that cover some journals, and index these again; and the indexes of other
    sinks' journals, which the next run makes."""
    store.delete([info.key for info in list(store.list(ids.ANSWERS)) if ids.parse_answers(info.key) is None])
    index = AnswerIndex(store)
    index.drop_damaged()
    store.delete([key for key, partitions in index.coverage() if not partitions.isdisjoint(journals)])
    published = catalogue.published(store, note=note)
    # A killed command may have removed files of the index that covered others, too: those not published are not missed.
    written = {ids.partition_of_journal(info.key) for info in store.list(ids.JOURNAL)}
    coverage.catch_up(store, published, written - set(published["partition"]), note=note)
