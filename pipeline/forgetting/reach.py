"""What forgetting rows in a sink cannot reach, in sentences for its receipt. They name places, never rows."""

from collections.abc import Iterator

from pipeline.forgetting.journals import JournalSearch
from pipeline.forgetting.search import FoundRows
from schemas.spec.sections import Spec
from stages.models.settings.choice import models_of

_TABLES = {
    "delta": "the Delta table's log, and files that other engines wrote to it: until its own VACUUM",
    "iceberg": "the Iceberg table's snapshots, and files that other engines wrote to it: until expire_snapshots",
}
_LISTED = 5


def not_reached(spec: Spec, files: FoundRows, records: JournalSearch, jobs: list[str]) -> Iterator[str]:
    """Yield a sentence for each place where the rows may still be. `jobs`: provider jobs whose files may still lie at
    their provider."""
    yield (
        f"the source, {spec.source.path}: if it still has the rows, a check, plan or run copies its input to the sink "
        "again, and they are enriched, paid for and published again once anything of their partition changes"
    )
    providers = sorted({choice.name.partition(":")[0] for stage in spec.stages for choice in models_of(stage)})
    if providers := [name for name in providers if name != "offline"]:
        yield f"what providers keep of requests: {', '.join(providers)}"
    if jobs:
        yield f"files at providers, of batch jobs that are out or whose files were not deleted: {_some(jobs)}"
    if spec.sink.format in _TABLES:
        yield _TABLES[spec.sink.format]
    yield "earlier versions of objects and backups, where the store keeps them"
    yield "files that were written by tandem outputs export and tandem review export, and what readers have copied"
    yield "logs of workers, and Temporal's histories until their retention ends: messages of errors may quote a row"
    yield "records on other machines whose workers were killed and that no later run has stored yet"
    yield "other sinks that name this one in journal.read_from"
    for sink in spec.journal.read_from:
        yield f"the sink {sink} of journal.read_from: forget the rows there, too"
    if files.keyless:
        yield f"values of these rows in tables without their key: {_some(sorted(files.keyless))}"
    if files.foreign:
        yield f"files in data/ that are none of Tandem's: {_some(files.foreign)}"
    if unreadable := [*files.unreadable, *records.unreadable]:
        yield f"objects that cannot be read: {_some(unreadable)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"
