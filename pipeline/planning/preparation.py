"""Make a spec ready in this process: list and split the input, import user code, build the stages."""

from pathlib import Path

import pyarrow as pa

from pipeline.planning.job import Job
from pipeline.progress_note import Note, unnoted
from pipeline.runs.requests import load_spec_of
from pipeline.settings import expanded
from pipeline.sinks.schema import load_dataset
from pipeline.sinks.table_formats import follow
from pipeline.sources.readiness import settling
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import Store
from schemas.errors import SpecError
from schemas.plan import Plan
from schemas.spec.sections import Spec
from stages.contract import AnyStage, GraphStage
from stages.models.settings.choice import ModelServices
from stages.registry import build_stages
from stages.user_code import add_user_folder


def refuse_unbound_checks(job: Job) -> None:
    """Raise SpecError for a check that does not fit the columns of the output, or needs a key that there is not."""
    for index, check in enumerate(job.spec.checks):
        if check.unique is not None and not job.spec.source.key:
            message = f"check {check.name!r}: unique: dataset needs source.key, the columns that identify a row."
            raise SpecError(message, hint="Add source.key.", places=[(("checks", index, "unique"), message)])
    if not job.snapshot.partitions:  # its keys are not known
        return
    if not any(check.sql for check in job.spec.checks):
        return
    from stages.tables.condition_check import bind  # a SQL parser, a fifth of a second that most specs don't need

    for index, check in enumerate(job.spec.checks):
        if check.sql is not None:
            bind(check.sql, job.checked_columns, f"check {check.name!r}", ("checks", index, "sql"))


def make_job(
    spec: Spec, base: Path, store: Store, services: ModelServices, *, note: Note = unnoted, new_files: bool = False
) -> Job:
    """List and split the input, import user code, build the stages. `new_files`: for a run that new files started.
    Raises UsageError of every kind."""
    ready = settling(expanded(spec)) if new_files else expanded(spec)
    add_user_folder(base)
    dataset = load_dataset(store, ready.name)
    snapshot = snapshot_of(ready, base, store, pinned=dataset.types if dataset else {}, note=note)
    job = Job(ready, base, snapshot, build_job_stages(ready, snapshot.schema, base, services))
    refuse_unbound_checks(job)
    return job


def job_of_plan(store: Store, plan: Plan, services: ModelServices) -> Job:
    """Make the job of a plan: its snapshot is loaded, nothing is listed again."""
    spec = expanded(load_spec_of(store, plan.spec))
    base = Path(plan.base)
    add_user_folder(base)
    snapshot = load_snapshot(store, plan.snapshot)
    return Job(spec, base, snapshot, build_job_stages(spec, snapshot.schema, base, services))


def build_job_stages(spec: Spec, columns: pa.Schema, base: Path, services: ModelServices) -> list[AnyStage]:
    refuse_unbuilt(spec)
    stages = build_stages(spec, columns, base=base, services=services)
    for stage in stages:
        if stage.spec.placement == "node" and not isinstance(stage, GraphStage):
            raise SpecError(
                f"stage {stage.name}: placement: node belongs to graphs, not to uses: {stage.spec.uses}.",
                hint="Remove placement.",
            )
    return stages


def refuse_unbuilt(spec: Spec) -> None:
    """Raise SpecError for a setting that needs a package which is not installed."""
    follow.refuse_absent(spec)
