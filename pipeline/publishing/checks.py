"""What has to hold before anything is uploaded: counts, the reject rate, the spec's checks."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from pipeline.planning.job import Job
from schemas.errors import ChecksFailed, CountsMismatch, RejectRateExceeded
from schemas.manifest import Counts
from schemas.staging import OpenedPartition, Receipt


def refuse_miscount(opened: OpenedPartition, receipts: Sequence[Receipt], counts: Counts) -> None:
    published = sum(receipt.data.rows for receipt in receipts)
    if not counts.add_up or counts.rows_in != opened.rows or published != counts.out:
        raise CountsMismatch(
            f"{opened.partition}: {opened.rows} rows in, but ok {counts.ok} + rejected {counts.rejected} + filtered "
            f"{counts.filtered} + pending {counts.pending} = {counts.rows_in}, and {published} of {counts.out} to "
            "publish.",
            hint="A bug of Tandem's; nothing was published.",
        )


def too_many_rejects(job: Job, partition: str, counts: Counts) -> RejectRateExceeded | None:
    allowed = job.spec.limits.max_reject_rate
    if counts.rows_in and counts.rejected > allowed * counts.rows_in:
        return RejectRateExceeded(
            f"{partition}: {counts.rejected} of {counts.rows_in} rows were rejected, "
            f"{counts.rejected / counts.rows_in:.1%}; limits.max_reject_rate is {allowed:.1%}.",
            hint="See why: tandem rejects ls. Answers are kept and not paid for again.",
        )
    return None


class OutputChecks:
    """The spec's `checks`, counted batch by batch."""

    def __init__(self, job: Job) -> None:
        self.checks = job.spec.checks
        self.broken = dict.fromkeys((check.name for check in self.checks), 0)

    def see(self, table: pa.Table) -> None:
        if not self.checks or not table.num_rows:
            return
        with pl.SQLContext(rows=pl.DataFrame(table), eager=True) as context:
            for check in self.checks:
                held = context.execute(f"SELECT ({check.sql}) AS held FROM rows")["held"]
                self.broken[check.name] += int((~held.fill_null(False)).sum())

    def verdict(self, partition: str) -> list[str]:
        """Warnings. Raises ChecksFailed where a blocking check found rows."""
        said = {check.name: f"check {check.name!r}: {self.broken[check.name]} row(s) break it" for check in self.checks}
        failed = [said[c.name] for c in self.checks if c.severity == "block" and self.broken[c.name]]
        if failed:
            raise ChecksFailed(
                f"{partition}: {'; '.join(failed)}.", hint="Nothing was published; answers are kept in the journal."
            )
        return [said[c.name] for c in self.checks if c.severity == "warn" and self.broken[c.name]]
