"""A spec made ready in this process: input listed and split, user code imported, stages built."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.sources.snapshot import Snapshot
from pipeline.stores import Store
from schemas import partition_keys
from schemas.spec.sections import Spec
from stages.contract import AnyStage, GraphStage, TableStage, graph_stages
from stages.execution import provenance
from stages.stage_digests import aspects_of, code_digests, shape_of


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
    def selecting(self) -> list[TableStage]:
        """The stages before all others that can be a lazy plan over the source."""
        found = []
        for stage in self.stages:
            if not isinstance(stage, TableStage) or stage.lazily is None:
                break
            found.append(stage)
        return found

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
