"""What activities of a run tell a lineage backend. Nothing is done where none is configured, and nothing here fails or
changes a run."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.planning.job import Job
from pipeline.runs.report import Report, as_json
from pipeline.sinks import commits
from pipeline.sinks.outcomes import outcomes
from pipeline.sources.snapshot import SnapshotInfo
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from pipeline.telemetry.lineage import switch
from pipeline.telemetry.lineage.datasets import Datasets, datasets_of
from schemas import ids
from schemas.errors import Damaged, ObjectMissing, TandemError
from schemas.manifest import Manifest
from schemas.messages.base import RunRef
from schemas.plan import RunRequest
from schemas.spec.sections import Spec

if TYPE_CHECKING:
    from pipeline.telemetry.lineage.events import Checked, RunParent, State

log = logging.getLogger("tandem.lineage")
_STATES: dict[str, "State"] = {"completed": "COMPLETE", "failed": "FAIL", "cancelled": "ABORT", "paused": "ABORT"}
_READS_AT_ONCE = 16
_ROWS = ("in", "ok", "rejected", "filtered", "pending", "unfinished", "removed", "out")
_USAGE = ("calls", "input_tokens", "output_tokens", "cost_usd", "unknown")


def run_began(ref: RunRef, request: RunRequest) -> None:
    """Send START."""
    if switch.is_on():
        from pipeline.telemetry.lineage.events import event  # its library is for those who want lineage

        switch.send(lambda: event("START", ref, _parent(request)))


def run_planned(store: Store, ref: RunRef, request: RunRequest, job: Job) -> None:
    """Send RUNNING with the datasets, and keep these for the run's end."""
    if not switch.is_on():
        return
    from pipeline.telemetry.lineage.events import event

    try:
        datasets = _datasets(store, job, Path(request.base))
        store.put(ids.lineage(ref.run), datasets.model_dump_json().encode())
    except Exception as exc:  # noqa: BLE001  a run goes on without its lineage
        log.warning("the datasets of run %s are not described: %s", ref.run, type(exc).__name__)
        return
    switch.send(lambda: event("RUNNING", ref, _parent(request), datasets))


def run_ended(store: Store, ref: RunRef, request: RunRequest, spec: Spec, report: Report) -> None:
    """Send COMPLETE, FAIL or ABORT, with the figures of the run's report."""
    if not switch.is_on():
        return
    from pipeline.telemetry.lineage.events import Ended, event

    shown = as_json(report)
    try:
        published = _published(store, ref)
    except (TandemError, OSError, ValueError) as exc:
        log.warning("the files that run %s published are not counted: %s", ref.run, type(exc).__name__)
        published = []
    files = [file for manifest in published for file in manifest.files]
    ended = Ended(
        rows_in=shown["rows"]["in"],
        rows_out=shown["rows"]["out"],
        bytes=sum(file.size for file in files),
        files=len(files),
        checks=_checks(spec, report) if shown["rows"]["in"] else [],
        report={
            "run": ref.run,
            "state": report.state,
            "rows": {name: shown["rows"][name] for name in _ROWS},
            "partitions": shown["partitions"],
            "journal": shown["journal"],
            "usage": {name: shown["usage"][name] for name in _USAGE},
        },
        error=_error(report),
    )
    switch.send(lambda: event(_STATES[report.state], ref, _parent(request), _kept(store, ref), ended))


def _datasets(store: Store, job: Job, base: Path) -> Datasets:
    info: SnapshotInfo = job.snapshot.info
    found = datasets_of(job.spec, base, store.uri, job.snapshot.schema, job.columns, job.stages)
    return found.model_copy(update={"rows": info.rows, "bytes": info.bytes, "files": len(info.sources or ())})


def _kept(store: Store, ref: RunRef) -> Datasets | None:
    """Return what `run_planned` has kept; None if the run was planned without lineage."""
    try:
        return read_document(store, ids.lineage(ref.run), Datasets)
    except (ObjectMissing, Damaged):
        return None


def _published(store: Store, ref: RunRef) -> list[Manifest]:
    """Return the generations that the run has published."""
    ended = [result for result in outcomes(store, ref.run) if result.outcome == "published" and result.generation]
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        found = pool.map(lambda one: commits.read_commit(store, one.partition, one.generation or 0), ended)
        return [manifest for manifest in found if manifest is not None]


def _checks(spec: Spec, report: Report) -> list["Checked"]:
    from pipeline.telemetry.lineage.events import Checked

    def broken(name: str) -> int:
        return sum(found.rows for found in report.checks if found.name == name)

    return [Checked(check.name, check.severity, check.sql or "", broken(check.name)) for check in spec.checks]


def _error(report: Report) -> str:
    """Return why a run did not complete; messages of failures name no row."""
    if report.state == "completed":
        return ""
    failures = [report.stop] if report.stop is not None else list(report.failures[:1])
    return "; ".join(f"{failure.error}: {failure.message}" for failure in failures) or report.state


def _parent(request: RunRequest) -> "RunParent":
    from pipeline.telemetry.lineage.events import RunParent

    return RunParent(request.lineage_parent, request.lineage_root)
