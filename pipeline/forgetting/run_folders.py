"""What is kept of runs, and of generations beside their files: rejects, reports, statistics, pages, names of rows.

Reports and outcomes name rows in messages, and as examples of broken checks. Of partitions that held forgotten rows
both are taken out whole: a message that may quote a row is not worth keeping for it.
"""

import datetime as dt
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.forgetting.identities import Identities, forgotten_row
from pipeline.forgetting.search import RowFile
from pipeline.forgetting.tables import write_without
from pipeline.runs import html_report, outcomes, statistics
from pipeline.runs.report import Report, load_report
from pipeline.runs.statistics import CostlyRow, ErrorClass, RunStatistics
from pipeline.sinks import catalogue, commits
from pipeline.stores import Store
from schemas import ids
from schemas.errors import UsageError
from schemas.manifest import BrokenCheck
from schemas.messages.run import Failure

MESSAGE = "the message was removed by tandem forget"
_CUT = 40  # characters of a key's value in statistics
Check = TypeVar("Check", bound=BrokenCheck)


@dataclass(frozen=True)
class RunFolders:
    """The runs of a sink. `key`: the columns of the source's key; `partitions`: those that hold or held the rows."""

    store: Store
    rows: Identities
    key: list[str]
    partitions: Collection[str]

    def remove(self, now: dt.datetime) -> None:
        """Take the rows out of every run's reports and of the manifests. Raises StoreError."""
        stale = False
        for run in self.store.folders(ids.RUNS):
            stale |= self._outcomes(run)
            self._reports(run)
        for partition in self.partitions:
            self._manifests(partition)
        if stale:  # the catalogue repeats their messages
            self.store.delete(info.key for info in list(self.store.list(f"{ids.CATALOGUE}attempts-")))
            catalogue.update(self.store, now)

    def _outcomes(self, run: str) -> bool:
        changed = False
        for partition in self.partitions:
            found = outcomes.load_outcome(self.store, run, partition)
            if found is None or not (found.message or _named(found.checks)):
                continue
            message = MESSAGE if found.message else ""
            outcomes.write_outcome(
                self.store, run, found.model_copy(update={"message": message, "checks": _unnamed(found.checks)})
            )
            changed = True
        return changed

    def _manifests(self, partition: str) -> None:
        """Take the examples of broken checks out of earlier manifests: the one change that a manifest may have."""
        for manifest in commits.history(self.store, partition):
            if _named(manifest.checks):
                changed = manifest.model_copy(update={"checks": _unnamed(manifest.checks)})
                self.store.put(ids.commit(partition, manifest.generation), changed.model_dump_json().encode())

    def _reports(self, run: str) -> None:
        report, story = load_report(self.store, run), statistics.load(self.store, run)
        new_report = self._report(report) if report is not None else None
        new_story = self._story(story) if story is not None else None
        if (new_report, new_story) == (report, story):
            return
        page = ids.report_page(run)  # first, as it is made only where the others are still to be changed
        if new_report is None or new_story is None:
            self.store.delete([page])
        elif self.store.head(page) is not None:
            self.store.put(page, html_report.page(new_report, new_story).encode())
        if new_story is not None:
            statistics.save(self.store, run, new_story)
        if new_report is not None:
            self.store.put(ids.report(run), new_report.model_dump_json().encode())

    def _report(self, report: Report) -> Report:
        checks = tuple(
            check.model_copy(update={"keys": ()}) if check.partition in self.partitions else check
            for check in report.checks
        )
        failures = tuple(map(self._failure, report.failures))
        stop = self._failure(report.stop) if report.stop is not None else None
        return report.model_copy(update={"checks": checks, "failures": failures, "stop": stop})

    def _failure(self, failure: Failure) -> Failure:
        return failure.model_copy(update={"message": MESSAGE}) if failure.partition in self.partitions else failure

    def _story(self, story: RunStatistics) -> RunStatistics:
        def kept(rows: tuple[CostlyRow, ...]) -> tuple[CostlyRow, ...]:
            return tuple(row for row in rows if not self.rows.has(row.row))

        lines = tuple(
            line.model_copy(update={"reason": MESSAGE}) if line.reason and line.partition in self.partitions else line
            for line in story.lines
        )
        errors = tuple(
            error.model_copy(update={"key": "", "message": MESSAGE}) if self._may_name(error) else error
            for error in story.errors
        )
        slowest, dearest = kept(story.slowest), kept(story.dearest)
        return story.model_copy(update={"lines": lines, "errors": errors, "slowest": slowest, "dearest": dearest})

    def _may_name(self, error: ErrorClass) -> bool:
        """True if the example of a class of rejects is, or may be, a forgotten row; its text may be cut."""
        texts = error.key.removeprefix(f"{self.key[0]}=") if len(self.key) == 1 else error.key
        try:
            return len(texts) >= _CUT or self.rows.any_of(forgotten_row(texts, self.key).ids)
        except UsageError:
            return bool(error.key)


def _named(checks: tuple[Check, ...]) -> bool:
    return any(check.keys for check in checks)


def _unnamed(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check.model_copy(update={"keys": ()}) for check in checks)


def rewrite_in_place(store: Store, file: RowFile, rows: Identities) -> None:
    """Replace a file that no manifest names by itself without the rows, in one put; remove it if none is left."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        path = Path(folder) / "rows.parquet"
        if write_without(store, file.key, file.ids_of, rows, path):
            store.put(file.key, path.read_bytes())
        else:
            store.delete([file.key])
