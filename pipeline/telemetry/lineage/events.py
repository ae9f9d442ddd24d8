"""Events of a run. OpenLineage's own classes make them, so what they refuse is never sent."""

import datetime as dt
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import attr
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    symlinks_dataset,
)

from pipeline.settings import PACKAGE, version
from pipeline.telemetry.lineage.datasets import Dataset, Datasets
from schemas.messages.base import RunRef

_IDS = uuid.UUID("6f1e5f2e-6a39-5d0c-9a55-7d0d6f3f9c51")  # of our runs: OpenLineage wants each to have a UUID
State = Literal["START", "RUNNING", "COMPLETE", "FAIL", "ABORT"]


@dataclass(frozen=True)
class RunParent:
    """The run that started ours, such as a task of Airflow's or an op of Dagster's, and the one that began it all; as
    OpenLineage's variables have them: `namespace/job/run`."""

    parent: str = ""
    root: str = ""


@dataclass(frozen=True)
class Checked:
    """A check of the spec, and the rows that break it. `content`: the condition, empty for a unique key."""

    name: str
    severity: str
    content: str
    broken: int


@dataclass(frozen=True)
class Ended:
    """What a run did: rows read and published, bytes and files of the latter, its checks, and `report`: counts and
    money as `run --json` has them. `error`: why it did not complete."""

    rows_in: int
    rows_out: int
    bytes: int
    files: int
    checks: Sequence[Checked]
    report: Mapping[str, Any]
    error: str = ""


@attr.define
class ReportRunFacet(RunFacet):
    """Counts and money of a run, as its report has them."""

    rows: dict[str, int]
    partitions: dict[str, int]
    journal: dict[str, int]
    usage: dict[str, Any]
    run: str
    state: str


def event(
    state: State, ref: RunRef, parent: RunParent, datasets: Datasets | None = None, ended: Ended | None = None
) -> RunEvent:
    """Return an event of a run, at this time."""
    producer = f"urn:{PACKAGE}:{version()}"
    facets = {**_run_facets(parent), **(_end_facets(ended) if ended is not None else {})}
    job_facets: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="TANDEM", jobType="PIPELINE")
    }
    found = RunEvent(
        eventTime=dt.datetime.now(dt.UTC).isoformat(),
        producer=producer,
        eventType=RunState[state],
        run=Run(runId=run_id(ref), facets=facets),
        job=Job(namespace=namespace(), name=ref.pipeline, facets=job_facets),
        inputs=[_input(datasets, ended)] if datasets is not None else [],
        outputs=[_output(datasets, ended)] if datasets is not None else [],
    )
    for facet in _all_facets(found):
        facet._producer = producer
    return found


def run_id(ref: RunRef) -> str:
    """Return the UUID of a run: the same in every process and attempt."""
    return str(uuid.uuid5(_IDS, "\0".join((ref.sink, ref.pipeline, ref.run))))


def namespace() -> str:
    """Return the namespace of our jobs, by OpenLineage's variable."""
    return os.environ.get("OPENLINEAGE_NAMESPACE") or "default"


def _run_facets(parent: RunParent) -> dict[str, RunFacet]:
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=version(), name="Tandem", openlineageAdapterVersion=version()
        )
    }
    found, root = _parts(parent.parent), _parts(parent.root)
    if found is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=found[2]),
            job=parent_run.Job(namespace=found[0], name=found[1]),
            root=parent_run.Root(
                run=parent_run.RootRun(runId=root[2]), job=parent_run.RootJob(namespace=root[0], name=root[1])
            )
            if root is not None
            else None,
        )
    return facets


def _parts(text: str) -> tuple[str, str, str] | None:
    """Return namespace, job and run of `namespace/job/run`; None if it is not of this form."""
    space, _, rest = text.partition("/")
    job, _, run = rest.rpartition("/")
    try:
        return (space, job, str(uuid.UUID(run))) if space and job else None
    except ValueError:
        return None


def _end_facets(ended: Ended) -> dict[str, RunFacet]:
    facets: dict[str, RunFacet] = {"tandem_report": ReportRunFacet(**ended.report)}
    if ended.error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            message=ended.error, programmingLanguage="Python"
        )
    return facets


def _input(datasets: Datasets, ended: Ended | None) -> InputDataset:
    source = datasets.source
    found = InputDataset(namespace=source.namespace, name=source.name, facets={"schema": _schema(source)})
    if ended is not None:
        whole = ended.rows_in == datasets.rows  # of a part it is not known how many bytes it has
        found.inputFacets = {
            "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=ended.rows_in,
                size=datasets.bytes if whole else None,
                fileCount=datasets.files or None if whole else None,
            )
        }
    return found


def _output(datasets: Datasets, ended: Ended | None) -> OutputDataset:
    output = datasets.output
    facets: dict[str, Any] = {"schema": _schema(output), "columnLineage": _column_lineage(datasets)}
    if output.table:
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(
            identifiers=[symlinks_dataset.Identifier(namespace=output.namespace, name=output.table, type="TABLE")]
        )
    if ended is not None and ended.checks:
        facets["dataQualityAssertions"] = _assertions(ended.checks)
    found = OutputDataset(namespace=output.namespace, name=output.name, facets=facets)
    if ended is not None:
        found.outputFacets = {
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=ended.rows_out, size=ended.bytes, fileCount=ended.files
            )
        }
    return found


def _schema(dataset: Dataset) -> schema_dataset.SchemaDatasetFacet:
    return schema_dataset.SchemaDatasetFacet(
        fields=[
            schema_dataset.SchemaDatasetFacetFields(name=column.name, type=column.type, ordinal_position=at)
            for at, column in enumerate(dataset.columns, 1)
        ]
    )


def _column_lineage(datasets: Datasets) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    source = datasets.source
    fields = {}
    for column in datasets.output.columns:
        kind = "TRANSFORMATION" if column.by else "IDENTITY"
        how = column_lineage_dataset.Transformation(
            type="DIRECT", subtype=kind, description=" → ".join(column.by), masking=False
        )
        inputs = [
            column_lineage_dataset.InputField(source.namespace, source.name, name, transformations=[how])
            for name in column.origins
        ]
        if inputs:
            fields[column.name] = column_lineage_dataset.Fields(inputFields=inputs)
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)


def _assertions(checks: Sequence[Checked]) -> data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet:
    return data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
        assertions=[
            data_quality_assertions_dataset.Assertion(
                assertion="custom_sql" if check.content else "unique",
                success=not check.broken,
                name=check.name,
                severity="error" if check.severity == "block" else "warn",
                expected="0",
                actual=str(check.broken),
                content=check.content or None,
                contentType="sql" if check.content else None,
            )
            for check in checks
        ]
    )


def _all_facets(found: RunEvent) -> list[Any]:
    """Return all facets of an event: each names its producer."""
    groups: list[Any] = [found.run.facets, found.job.facets]
    groups += [group for one in found.inputs or () for group in (one.facets, one.inputFacets)]
    groups += [group for one in found.outputs or () for group in (one.facets, one.outputFacets)]
    return [facet for group in groups for facet in (group or {}).values()]
