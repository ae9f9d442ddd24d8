"""Checks before anything is uploaded: counts, the reject rate, the spec's checks."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from pipeline.planning.job import Job
from pipeline.sinks.row_files import row_name
from pipeline.sinks.schema import key_values
from schemas.errors import ChecksFailed, CountsMismatch, RejectRateExceeded
from schemas.manifest import BrokenCheck, Counts
from schemas.staging import OpenedPartition, Receipt
from stages.tables.conditions import holds

_SAMPLE = 5
_BLOCKED = (
    "Nothing was published, and the answers are kept: repeating the run gives the same result. See such rows: tandem "
    "partitions show KEY; then change the prompt, drop them (a stage with uses: checks), or set severity: warn."
)


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
            hint="Repeating the run gives the same result. See why: tandem rejects ls; then retry those rows: tandem "
            "rejects retry, or raise limits.max_reject_rate. Answers are kept and not paid for again.",
        )
    return None


class OutputChecks:
    """The spec's `checks`, counted batch by batch, with a sample of the rows that break them."""

    def __init__(self, job: Job, partition: str) -> None:
        self._checks = [(check, check.sql) for check in job.spec.checks if check.sql is not None]
        self._partition = partition
        self._keys = key_values(partition, job.keys)
        self._named_by = [name for name in job.spec.source.key if name in job.checked_columns.names]
        self._seen = 0
        self._broken = [0] * len(self._checks)
        self._sample: list[list[str]] = [[] for _ in self._checks]

    def see(self, table: pa.Table) -> None:
        """Count the rows that break each check; the partition's own columns are there as well."""
        if not self._checks or not table.num_rows:
            return
        for name, value in self._keys:
            table = table.append_column(name, pa.repeat(value, table.num_rows))
        rows = pl.DataFrame(table)
        self._seen += rows.height
        for index, (_, sql) in enumerate(self._checks):
            broken = rows.filter(~holds(rows, sql))
            self._broken[index] += broken.height
            self._note(self._sample[index], broken)

    def _note(self, sample: list[str], broken: pl.DataFrame) -> None:
        """Add row names to a sample: a source row may have become several, and is named once."""
        if not self._named_by:
            return
        for values in broken.select(self._named_by).iter_rows():
            if len(sample) == _SAMPLE:
                return
            if (name := row_name(dict(zip(self._named_by, values, strict=True)))) not in sample:
                sample.append(name)

    def broken(self) -> tuple[BrokenCheck, ...]:
        """Return the checks that rows break, in the spec's order."""
        return tuple(
            BrokenCheck(name=check.name, severity=check.severity, rows=rows, keys=tuple(sample))
            for (check, _), rows, sample in zip(self._checks, self._broken, self._sample, strict=True)
            if rows
        )

    def verdict(self) -> tuple[BrokenCheck, ...]:
        """Return the broken checks of severity warn. Raises ChecksFailed if rows break a blocking check."""
        broken = self.broken()
        blocking = [self.sentence(check) for check in broken if check.severity == "block"]
        if blocking:
            raise ChecksFailed(f"{self._partition}: {'; '.join(blocking)}.", checks=broken, hint=_BLOCKED)
        return broken

    def sentence(self, check: BrokenCheck) -> str:
        """Describe a broken check, without keys: it is stored where no row may be named."""
        (sql,) = (sql for one, sql in self._checks if one.name == check.name)
        return f"check {check.name!r} ({sql.strip()}): {check.rows:,} of {self._seen:,} rows break it"
