"""`tandem check`: check one thing after another and show the findings."""

import asyncio
from pathlib import Path

from pipeline.cli.screen.console import Screen, counted
from pipeline.client.connection import connect
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.client.tool_servers import listed_servers
from pipeline.planning.job import Job
from pipeline.processes.expendable.import_probe import probe_user_code
from pipeline.settings import temporal_configured
from pipeline.sinks.schema import refuse_breaking
from pipeline.stores import may_delete
from schemas.partition_keys import partition_texts
from schemas.spec.sections import Spec
from schemas.tables import same_but_for_case
from stages.models.settings.parameters import complaints

_MAY_NOT_DELETE = (
    "Warning: this writer may not delete in {0}, so replaced files stay in data/ and readers by glob will see rows "
    "twice after each re-run. Let it delete under data/, rejects/ and _tandem/ (but for _tandem/commits/), or read "
    "with pipeline.consume."
)


async def check_command(path: Path, screen: Screen) -> int:
    """Validate and probe; send no model call."""
    spec, base = read_spec(path)
    await probe_user_code(spec, base, screen.fault)
    ready = await asyncio.to_thread(preflight, spec, base, file=path, on_step=lambda step: screen.note(f"✓ {step}"))
    await asyncio.to_thread(refuse_breaking, ready.store, ready.job.columns, ready.job.keys)
    servers = await listed_servers(ready.job.spec, base)
    for name, server in servers.items():
        screen.note(f"✓ MCP server {name} ({server['transport']}): {', '.join(server['tools']) or 'no tools'}")
    if temporal_configured():
        client = await connect()
        temporal = f"{client.service_client.config.target_host}"
    else:
        from pipeline.embedded.launch import find_binary

        temporal = f"embedded ({await asyncio.to_thread(find_binary)})"
    screen.note(f"✓ Temporal: {temporal}")
    deletes = await asyncio.to_thread(may_delete, ready.store)
    if not deletes:
        screen.note(_MAY_NOT_DELETE.format(ready.store.uri))
    job = ready.job
    findings = {
        "pipeline": spec.name,
        "partitions": len(job.snapshot.partitions),
        "rows": job.snapshot.info.rows,
        "columns": {f.name: str(f.type) for f in job.columns},
        "stages": [
            {
                "stage": stage.name,
                "uses": stage.spec.uses,
                "reads": list(stage.reads),
                "models": stage.provenance.models,
                "structured_output": stage.provenance.structured_output,
            }
            for stage in job.stages
        ],
        "sink": ready.store.uri,
        "may_delete": deletes,
        "temporal": temporal,
    }
    if servers:
        findings["mcp"] = servers
    warnings = [*_warnings(job), *(f"{one.message} {one.hint}" for one in complaints(spec))]
    for warning in warnings:
        screen.note(f"Warning: {warning}")
    if screen.json:
        screen.document({"ok": True, **findings, "warnings": warnings})
        return 0
    rows, parts = counted(job.snapshot.info.rows, "row"), counted(len(job.snapshot.partitions), "partition")
    screen.result(f"{spec.name} is fine: {rows} in {parts} → {ready.store.uri}")
    for name in own_models(spec):
        screen.note(
            f"Note: stage {name} names no model. Models that its graph builds itself are journalled by LangChain's "
            "cache hook, except streamed ones; limits, budget and retries do not apply to them."
        )
    for stage in job.stages:
        reads = ", ".join(stage.reads) or "rows"
        fields = ", ".join(stage.fields) or "rows"
        models = ", ".join(stage.provenance.models.values())
        screen.result(f"  {stage.name} ({stage.spec.uses}{': ' + models if models else ''}): {reads} → {fields}")
    return 0


def own_models(spec: Spec) -> list[str]:
    """Return the names of stages with a user's graph that gets no model from the spec."""
    return [stage.name for stage in spec.stages if ":" in stage.uses and not stage.model]


def _warnings(job: Job) -> list[str]:
    """Return warnings about columns and partitions that some readers of the output refuse or misread."""
    warnings = [
        f"The columns {' and '.join(map(repr, names))} differ only in case: Athena, Hive and Spark treat them as one. "
        "Rename one in a stage (uses: sql)."
        for names in same_but_for_case(job.checked_columns.names)
    ]
    empty = next((key for key in job.snapshot.partitions if any(text == "" for _, text in partition_texts(key))), None)
    if empty is not None:
        warnings.append(
            f"The partition {empty!r} has an empty text as its value: Spark refuses to read such a folder "
            "(DuckDB, Polars, pandas and pyarrow read it). Give these rows a value in the source, or null and "
            "partition.nulls: own."
        )
    return warnings
