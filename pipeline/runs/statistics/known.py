"""The statistics of a run that may not have ended."""

from pipeline.runs.report import Report
from pipeline.runs.statistics.document import RunStatistics, load
from pipeline.sinks import outcomes
from pipeline.stores import Store


def statistics_of(store: Store, report: Report) -> RunStatistics:
    """Return the statistics written at the run's end; without them, those of its partitions so far."""
    found = load(store, report.run)
    if found is not None and report.finished_at is not None:
        return found
    from pipeline.runs.statistics.totals import partition_lines  # Polars, which a run that has ended does not need

    return RunStatistics(lines=tuple(partition_lines(store, report, outcomes.outcomes(store, report.run))))
