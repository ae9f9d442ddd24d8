"""Statistics of a run as they are written at its end. Without what computes them: commands that only ask read them."""

import datetime as dt

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing
from schemas.manifest import Noun


class ErrorClass(Noun):
    """Rejected rows of one stage and kind, with the first of them."""

    stage: str
    error: str
    rows: int
    message: str
    key: str


class PartitionLine(Noun):
    """A partition with its outcome, and the reason if it was not published."""

    partition: str
    outcome: str
    reason: str = ""
    rows: int = 0
    rejected: int = 0
    out: int = 0
    calls: int = 0
    cost_usd: float = 0.0


class TimeBucket(Noun):
    """Rows, calls and cost from `at` on, for `seconds`."""

    at: dt.datetime
    seconds: float
    rows: int
    calls: int
    cost_usd: float


class LatencyBucket(Noun):
    """The number of calls with a latency in these bounds, in milliseconds."""

    least_ms: float
    most_ms: float
    calls: int


class CostlyRow(Noun):
    """A row with the time and cost of its calls. `row` is its identity, as `rejects show --row` takes it, `key` the
    text of its key, empty if the source has none or the row is not published."""

    partition: str
    row: str
    key: str = ""
    model: str
    calls: int
    ms: int
    cost_usd: float


class ModelUsage(Noun):
    """The cost of a model's calls for a stage in a run; `tier` as its answers name it, empty if they name none; `stage`
    empty for calls of earlier versions."""

    model: str
    tier: str = ""
    stage: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class RunStatistics(Noun):
    """Statistics of a run. `whole` is false if only the first of many partitions or records are included."""

    lines: tuple[PartitionLine, ...] = ()
    moments: tuple[TimeBucket, ...] = ()
    latency: tuple[LatencyBucket, ...] = ()
    percentiles_ms: dict[str, float] = {}
    slowest: tuple[CostlyRow, ...] = ()
    dearest: tuple[CostlyRow, ...] = ()
    errors: tuple[ErrorClass, ...] = ()
    models: tuple[ModelUsage, ...] = ()
    whole: bool = True


def save(store: Store, run: str, statistics: RunStatistics) -> None:
    store.put(ids.story(run), statistics.model_dump_json().encode())


def load(store: Store, run: str) -> RunStatistics | None:
    try:
        return read_document(store, ids.story(run), RunStatistics)
    except (ObjectMissing, Damaged):
        return None
