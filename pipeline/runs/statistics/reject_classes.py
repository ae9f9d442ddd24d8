"""The classes of a run's rejected rows."""

from collections import Counter
from collections.abc import Iterable

import orjson

from pipeline.runs.statistics.document import ErrorClass
from pipeline.sinks import commits
from pipeline.sinks.row_files import read_rejects
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ChecksFailed, RejectRateExceeded, by_code
from schemas.messages.partition import PartitionResult


def error_classes(store: Store, run: str, results: Iterable[PartitionResult]) -> list[ErrorClass]:
    """Return the classes of rejected rows, the largest first."""
    rows: Counter[tuple[str, str]] = Counter()
    sample: dict[tuple[str, str], tuple[str, str]] = {}
    for result in results:
        for key in _rejects_of(store, run, result):
            frame = read_rejects(store, key)
            for stage, error, message, key_json in frame.select("stage", "error", "message", "key").iter_rows():
                rows[stage, error] += 1
                sample.setdefault((stage, error), (message or "", _key_text(key_json)))
    return [
        ErrorClass(stage=stage, error=error, rows=count, message=sample[stage, error][0], key=sample[stage, error][1])
        for (stage, error), count in rows.most_common()
    ]


def _rejects_of(store: Store, run: str, result: PartitionResult) -> list[str]:
    if by_code(result.error) in (RejectRateExceeded, ChecksFailed):
        return [ids.rejects_of_run(run, result.partition)]
    if not result.counts.rejected or result.generation is None:
        return []
    manifest = commits.read_commit(store, result.partition, result.generation)
    return [file.key for file in manifest.rejects] if manifest is not None else []


def _key_text(key: str | None) -> str:
    """Format the key's JSON as `id=7`, cut to a line."""
    try:
        values = orjson.loads(key or "{}")
    except orjson.JSONDecodeError:
        return ""
    return ", ".join(f"{name}={str(value)[:40]}" for name, value in values.items())[:120]
