"""The answers that a pipeline has in all journals: of its sink, and of the sinks in `journal.read_from`, only read."""

from functools import partial

import polars as pl

from pipeline.journal.answers import coverage
from pipeline.journal.answers.elsewhere import OtherJournals
from pipeline.planning.job import Job
from pipeline.progress_note import Note, unnoted
from pipeline.runs.plan_pages import is_closed
from pipeline.sinks import catalogue
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.errors import SpecError, StoreError

_WHERE = ("journal", "read_from")


def other_journals(job: Job, store: Store) -> OtherJournals:
    """Return the journals in which answers for the sink's partitions may be."""
    return OtherJournals(store, _read_from(job))


def _read_from(job: Job) -> tuple[Store, ...]:
    return tuple(open_store(uri, base=job.base) for uri in job.spec.journal.read_from)


def index_answers(job: Job, store: Store, note: Note = unnoted, *, published: pl.DataFrame | None = None) -> None:
    """Bring the index of answers up to date, before answers are looked up. `published`: the catalogue of all, if it was
    read already. Raises StoreError."""
    if published is None:
        published = catalogue.published(store, note=note)
    coverage.settle(store, published, partial(is_closed, store), note)
    for origin in _read_from(job):
        coverage.catch_up(store, catalogue.published(origin, note=note), origin=origin, note=note)


def refuse_unreadable(job: Job) -> None:
    """Raises SpecError for a sink of `journal.read_from` that is absent, or none of ours."""
    hint = "Correct the path, or remove the line: what was taken from there is in this sink's own journal."
    for number, store in enumerate(_read_from(job)):
        message = f"{store.uri} is no sink of Tandem."
        try:
            if next(iter(store.list(ids.DATASET)), None) or next(iter(store.list(ids.JOURNAL)), None):
                continue
        except StoreError as exc:
            message = exc.message
        sentence = f"journal.read_from[{number}]: {message}"
        raise SpecError(sentence, hint=hint, places=(((*_WHERE, number), sentence),))
