"""A spec made ready in this process: input listed and split, user code imported, stages built."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.progress_note import Note, unnoted
from pipeline.runs.requests import load_spec_of
from pipeline.settings import expanded
from pipeline.sinks.schema import load_dataset
from pipeline.sinks.table_formats import follow
from pipeline.sources.snapshot import Snapshot
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import Store
from schemas import partition_keys
from schemas.errors import SpecError
from schemas.plan import Plan
from schemas.spec.sections import Spec
from stages.contract import AnyStage, GraphStage, TableStage, graph_stages
from stages.execution import provenance
from stages.models.factory import ModelServices
from stages.registry import build_stages
from stages.stage_digests import aspects_of, code_digests, shape_of
from stages.tables.conditions import bind
from stages.user_code import add_user_folder


@dataclass(frozen=True)
class Job:
    """A spec made ready in this process: environment expanded, input listed and split, stages built."""

    spec: Spec
    base: Path
    snapshot: Snapshot
    stages: list[AnyStage]

    @property
    def shapes(self) -> dict[str, str]:
        """Per stage, a digest of all that shapes its part of the output: its answers and their use."""
        return {stage.name: shape_of(stage) for stage in self.stages}

    @property
    def aspects(self) -> dict[str, dict[str, str]]:
        """Digests of each stage's parts that a user may change: for reasons, never for decisions."""
        code = code_digests(self.spec)
        return {stage.name: aspects_of(stage, code.get(stage.name, "")) for stage in self.stages}

    @property
    def barrier(self) -> int:
        """The index of the first stage that waits for the whole partition; the number of stages if none does."""
        for index, stage in enumerate(self.stages):
            if stage.is_barrier:
                return index
        return len(self.stages)

    @property
    def partition_stages(self) -> list[TableStage]:
        """The stages over a whole partition, which run once all its rows are answered."""
        return [stage for stage in self.stages[self.barrier :] if isinstance(stage, TableStage)]

    @property
    def columns(self) -> pa.Schema:
        """The published columns: those after the last stage, without those that only the path holds."""
        columns = self.snapshot.schema
        for stage in self.stages:
            columns = stage.columns_after(columns)
        keys = set(self.snapshot.info.key_columns)
        columns = pa.schema([f for f in columns if f.name not in keys])
        waits = self.barrier < len(self.stages)
        return provenance.columns_of(columns, self.spec.sink.provenance, barrier=waits)

    @property
    def checked_columns(self) -> pa.Schema:
        """The columns that the spec's checks see: the output's, and those that only paths hold."""
        return pa.schema([*(f for f in self.columns if f.name != provenance.GENERATION), *self.keys])

    @property
    def keys(self) -> pa.Schema:
        """The columns that only paths hold: with the source's type if it has them, a day as a date, else text."""
        names = [name for key in self.snapshot.partitions[:1] for name, _ in partition_keys.partition_texts(key)]
        known = {name: self.snapshot.schema.field(name).type for name in self.snapshot.info.key_columns}
        if self.spec.partition.by == "time" and self.spec.partition.every == "day":
            known = dict.fromkeys(names, pa.date32())
        return pa.schema([(name, known.get(name, pa.string())) for name in names])


def refuse_unbound_checks(job: Job) -> None:
    """Raise SpecError for a check that does not fit the columns of the output."""
    if not job.snapshot.partitions:  # its keys are not known
        return
    for index, check in enumerate(job.spec.checks):
        bind(check.sql, job.checked_columns, f"check {check.name!r}", ("checks", index, "sql"))


def make_job(spec: Spec, base: Path, store: Store, services: ModelServices, *, note: Note = unnoted) -> Job:
    """List and split the input, import user code, build the stages. Raises UsageError of every kind."""
    ready = expanded(spec)
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


@dataclass(frozen=True)
class Ready:
    """A spec that can run here: as written (`spec`), and made ready (`job`)."""

    spec: Spec
    base: Path
    store: Store
    job: Job


def source_stages(job: Job) -> list[GraphStage]:
    """The graph stages that read only the source's columns: their known answers can be found before a run."""
    names = set(job.snapshot.schema.names)
    return [stage for stage in graph_stages(job.stages) if set(stage.reads) <= names]
