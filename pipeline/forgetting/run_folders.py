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
from pipeline.planning.unique_keys import SharedKeys
from pipeline.runs.html import report as html_report
from pipeline.runs.report import Report, load_report
from pipeline.runs.statistics import document as statistics
from pipeline.runs.statistics.document import CostlyRow, RunStatistics
from pipeline.sinks import catalogue, commits, outcomes
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import DuplicateKeys, UsageError
from schemas.manifest import BrokenCheck
from schemas.messages.partition import PartitionResult
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
            report = load_report(self.store, run)
            touched = self._touched(report)
            stale |= self._outcomes(run, touched)
            self._shared_keys(run)
            self._reports(run, report, touched)
        for partition in self.partitions:
            self._manifests(partition)
        if stale:  # the catalogue repeats their messages
            self.store.delete(info.key for info in list(self.store.list(f"{ids.CATALOGUE}attempts-")))
            catalogue.update(self.store, now)

    def _touched(self, report: Report | None) -> set[str]:
        """Return the partitions that hold or held the rows, and those that were refused for keys that may be theirs."""
        touched = set(self.partitions)
        if report is not None:
            touched |= {one.partition for one in report.failures if one.error == DuplicateKeys.__name__}
            touched |= {one.partition for one in report.checks if any(map(self._may_name, one.keys))}
        return touched

    def _outcomes(self, run: str, touched: Collection[str]) -> bool:
        def unnamed(found: PartitionResult) -> PartitionResult:
            message = MESSAGE if found.message else ""
            return found.model_copy(update={"message": message, "checks": _unnamed(found.checks)})

        return outcomes.amend(self.store, run, touched, unnamed)

    def _shared_keys(self, run: str) -> None:
        """Take the examples out of what a plan found about unique keys."""
        for info in list(self.store.list(ids.shared_keys_of(run))):
            found = read_document(self.store, info.key, SharedKeys)
            if found.keys:
                unnamed = found.model_copy(update={"keys": (), "others": ()})
                self.store.put(info.key, unnamed.model_dump_json().encode())

    def _manifests(self, partition: str) -> None:
        """Take the examples of broken checks out of earlier manifests: the one change that a manifest may have."""
        for manifest in commits.history(self.store, partition):
            if _named(manifest.checks):
                changed = manifest.model_copy(update={"checks": _unnamed(manifest.checks)})
                self.store.put(ids.commit(partition, manifest.generation), changed.model_dump_json().encode())

    def _reports(self, run: str, report: Report | None, touched: Collection[str]) -> None:
        story = statistics.load(self.store, run)
        new_report = _report(report, touched) if report is not None else None
        new_story = self._story(story, touched) if story is not None else None
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

    def _story(self, story: RunStatistics, touched: Collection[str]) -> RunStatistics:
        def kept(rows: tuple[CostlyRow, ...]) -> tuple[CostlyRow, ...]:
            return tuple(row for row in rows if not self.rows.has(row.row))

        lines = tuple(
            line.model_copy(update={"reason": MESSAGE}) if line.reason and line.partition in touched else line
            for line in story.lines
        )
        errors = tuple(
            error.model_copy(update={"key": "", "message": MESSAGE}) if self._may_name(error.key) else error
            for error in story.errors
        )
        slowest, dearest = kept(story.slowest), kept(story.dearest)
        return story.model_copy(update={"lines": lines, "errors": errors, "slowest": slowest, "dearest": dearest})

    def _may_name(self, key: str) -> bool:
        """True if a key as text, such as `7` or `id=7`, is that of a forgotten row, or may be: it may be cut."""
        text = key.removeprefix(f"{self.key[0]}=") if len(self.key) == 1 else key
        try:
            return len(text) >= _CUT or self.rows.any_of(forgotten_row(text, self.key).ids)
        except UsageError:
            return bool(text)


def _report(report: Report, touched: Collection[str]) -> Report:
    def without(failure: Failure) -> Failure:
        return failure.model_copy(update={"message": MESSAGE}) if failure.partition in touched else failure

    checks = tuple(_unnamed((check,))[0] if check.partition in touched else check for check in report.checks)
    stop = without(report.stop) if report.stop is not None else None
    return report.model_copy(update={"checks": checks, "failures": tuple(map(without, report.failures)), "stop": stop})


def _named(checks: tuple[Check, ...]) -> bool:
    return any(check.keys for check in checks)


def _unnamed(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check.model_copy(update={"keys": (), "others": ()}) for check in checks)


def rewrite_in_place(store: Store, file: RowFile, rows: Identities) -> None:
    """Replace a file that no manifest names by itself without the rows, in one put; remove it if none is left."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        path = Path(folder) / "rows.parquet"
        if write_without(store, file.key, file.ids_of, rows, path):
            store.put(file.key, path.read_bytes())
        else:
            store.delete([file.key])
