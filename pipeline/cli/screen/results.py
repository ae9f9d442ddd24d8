"""The result of a run: a summary, three rows, where the output is, and how to read it."""

from pipeline.cli.screen.console import Screen
from pipeline.cli.screen.row_table import show_rows
from pipeline.cli.screen.summary import summary
from pipeline.outputs import scan
from pipeline.runs.report import Report
from pipeline.sinks import generations
from pipeline.stores import Store
from schemas.spec.sections import Spec

_SAMPLE_ROWS = 3


def show_result(report: Report, store: Store, spec: Spec, screen: Screen) -> None:
    """Show a summary, sample rows, the path and the code to read it."""
    for text in summary(report):
        screen.result(text)
    if screen.quiet:
        return
    sample = scan.head(store, _SAMPLE_ROWS) if report.totals.published or report.totals.unchanged else None
    if sample is None:
        return
    if sample.height:
        show_rows(sample, new=[name for stage in spec.stages for name in stage.output])
    screen.result(f"Output: {report.sink}/data")
    exactly = spec.sink.format != "parquet" or generations.any_marked(store)
    screen.result(f"Read it: {scan.how_to_read(report.sink, exactly=exactly)}")
