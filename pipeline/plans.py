"""Requests and plans: what a run was asked, and what it will do, frozen as objects beside its reports.

A request is written once under a run's name and is that run's identity. A plan freezes the spec (prompts inlined), the
snapshot of the input and the digests of user code, so that later edits of files don't touch a running run.
"""

import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline import agreed, catalogue, due, lakes, planning
from pipeline.catalogue import Catalogue
from pipeline.datasets import load_dataset, refuse_breaking
from pipeline.questions import answered_rows
from pipeline.settings import expanded
from pipeline.sources.snapshot import Snapshot
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import Store
from schemas import digests, ids, partition_keys
from schemas.errors import NameTaken, ObjectMissing, SpecError, UsageError
from schemas.manifest import Manifest
from schemas.messages.base import MAX_PAYLOAD_BYTES, RunRef, Windows
from schemas.messages.run import Course, Page, PlannedPartition, PlanRef
from schemas.plan import Decision, Plan, Reprocess, Request, Selection
from schemas.spec.sections import Spec
from stages.contract import AnyStage, GraphStage, TableStage
from stages.execution import provenance
from stages.models.factory import ModelServices
from stages.registry import build_stages
from stages.stage_digests import aspects_of, code_digests, shape_of
from stages.user_code import add_user_folder

# Of a spec, what does not change what a run does, only how fast, how loudly or at what cost it may.
_NOT_IDENTITY = {
    "limits": {"rows_in_flight", "partitions_in_flight", "requests_per_minute", "tokens_per_minute", "max_cost_usd",
               "max_cost_usd_per_day", "max_tokens", "call_timeout"},
    "notify": True, "schedule": True, "prices": True,
}  # fmt: skip
_AS_SPECIFIED = Course()


def request_digest(spec: Spec, selection: Selection) -> str:
    said = spec.model_dump_json(exclude=_NOT_IDENTITY)  # type: ignore[arg-type]
    return digests.digest(said, selection.model_dump_json())


def new_run_name(now: dt.datetime) -> str:
    return f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"


def write_request(store: Store, spec: Spec, base: Path, selection: Selection, run: str) -> Request:
    """Write the request under its name, or find the equal one there. Raises NameTaken for another one."""
    data = spec.model_dump_json().encode()
    spec_key = ids.spec_of_run(run, hashlib.sha256(data).hexdigest())
    request = Request(
        run=run,
        pipeline=spec.name,
        digest=request_digest(spec, selection),
        spec=spec_key,
        base=str(base.absolute()),
        selection=selection,
        created_at=dt.datetime.now(dt.UTC),
    )
    store.put_absent(spec_key, data)
    if store.put_absent(ids.request(run), request.model_dump_json().encode()):
        return request
    known = load_request(store, run)
    assert known is not None
    if known.digest != request.digest:
        raise NameTaken(
            f"The run {run!r} has another spec or selection.", hint="Choose another --name, or leave it out."
        )
    return known


def load_request(store: Store, run: str) -> Request | None:
    try:
        return Request.model_validate_json(store.get(ids.request(run)))
    except ObjectMissing:
        return None


def load_spec_of(store: Store, key: str) -> Spec:
    return Spec.model_validate_json(store.get(key))


# What a run works with ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A spec made ready in this process: environment expanded, input listed and split, stages built."""

    spec: Spec
    base: Path
    snapshot: Snapshot
    stages: list[AnyStage]

    @property
    def shapes(self) -> dict[str, str]:
        """Per stage, a digest of all that shapes its part of the output: its answers, and what is done with them."""
        return {stage.name: shape_of(stage) for stage in self.stages}

    @property
    def aspects(self) -> dict[str, dict[str, str]]:
        """What of each stage a user may have changed, as digests: to say why, never to decide."""
        code = code_digests(self.spec)
        return {stage.name: aspects_of(stage, code.get(stage.name, "")) for stage in self.stages}

    @property
    def barrier(self) -> int:
        """The place of the first stage that waits for the whole partition; the number of stages where none does."""
        waits = (at for at, stage in enumerate(self.stages) if isinstance(stage, TableStage) and stage.over is not None)
        return next(waits, len(self.stages))

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
    def keys(self) -> pa.Schema:
        """The columns that only paths hold: of the source's type where they are its own, a day as a date, else text."""
        names = [name for key in self.snapshot.partitions[:1] for name, _ in partition_keys.partition_texts(key)]
        known = {name: self.snapshot.schema.field(name).type for name in self.snapshot.info.key_columns}
        if self.spec.partition.by == "time" and self.spec.partition.every == "day":
            known = dict.fromkeys(names, pa.date32())
        return pa.schema([(name, known.get(name, pa.string())) for name in names])


def make_job(
    spec: Spec, base: Path, store: Store, services: ModelServices, *, note: Callable[[int], None] = lambda rows: None
) -> Job:
    """List and split the input, import user code, build the stages. Raises UsageError of every kind."""
    ready = expanded(spec)
    add_user_folder(base)
    dataset = load_dataset(store, ready.name)
    snapshot = snapshot_of(ready, base, store, pinned=dataset.types if dataset else {}, note=note)
    return Job(ready, base, snapshot, build_job_stages(ready, snapshot.schema, base, services))


def job_of_plan(store: Store, plan: Plan, services: ModelServices) -> Job:
    """The job that a plan froze: its snapshot is loaded, nothing is listed again."""
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
                hint="Leave it out.",
            )
    return stages


def refuse_unbuilt(spec: Spec) -> None:
    """Say plainly what the spec may ask for but this version cannot do."""
    lakes.refuse_absent(spec)


def decisions(
    job: Job,
    store: Store,
    selection: Selection,
    now: dt.datetime,
    *,
    note: Callable[[int], None] = lambda rows: None,
    known: Catalogue | None = None,
) -> Iterator[Decision]:
    """One decision for each selected partition, in order of key. `known`: the catalogue of all, where it was read
    already. Raises UsageError for a selection of nothing, SchemaChanged, PlanOutdated for an agreed plan that holds no
    more."""
    if selection.new_version and job.spec.sink.format != "parquet":
        raise UsageError(
            f"--new-version: a table of sink.format = {job.spec.sink.format!r} keeps the columns that it has.",
            hint="Publish to another sink.path, with a table of its own.",
        )
    refuse_breaking(store, job.columns, job.keys, new_version=selection.new_version)
    if selection.agreed:
        yield from _as_agreed(job, store, selection, note)
        return
    levels = _levels(job, selection, now)
    chosen = list(levels)
    now_is = planning.Shape(job.shapes, job.aspects, tuple(job.snapshot.schema.names))
    known = known or catalogue.read(store, chosen, note=note)
    failed = catalogue.failed(known.attempts)
    rows = job.snapshot.entries.filter(pl.col("partition").is_in(chosen)).select("partition", "rows", "fingerprint")
    published = known.published.select("partition", "manifest", "shape")
    for key, count, fingerprint, *text in rows.join(
        published, on="partition", how="left", maintain_order="left"
    ).iter_rows():
        note(0)
        manifest = catalogue.manifest_of(*text)
        yield planning.decide(
            key,
            count,
            manifest,
            input_fingerprint=fingerprint,
            shape=now_is,
            reprocess=levels[key],
            last_failed=failed.get(key),
            answered=answered_rows(store, manifest),
        )


def _levels(job: Job, selection: Selection, now: dt.datetime) -> dict[str, Reprocess]:
    """The selected partitions, each with what makes it run."""
    partition, available = job.spec.partition, job.snapshot.partitions
    every = partition.every if partition.by == "time" else None
    if selection.due is not None:
        return due.levels(available, selection.due, every=every, zone=partition.zone)
    chosen = planning.select(available, selection, every=every, zone=partition.zone, now=now)
    return dict.fromkeys(chosen, selection.reprocess)


def _as_agreed(job: Job, store: Store, selection: Selection, note: Callable[[int], None]) -> list[Decision]:
    said = agreed.load(store, selection.agreed)
    decided = list(decisions(job, store, said.selection, said.created_at, note=note))

    @lru_cache
    def own(run: str) -> bool:
        request = load_request(store, run)
        return request is not None and request.selection.agreed == selection.agreed

    return agreed.held(said, decided, job.shapes, own)


# Writing and reading plans -----------------------------------------------------------------------------------------


def write_plan(
    store: Store, ref: RunRef, request: Request, job: Job, chosen: Iterable[Decision], course: Course = _AS_SPECIFIED
) -> PlanRef:
    """Write the pages, and the canary's after them, then the plan."""
    taken = limited(list(chosen), request.selection.limit_rows)
    if course.backwards:
        taken.reverse()
    for decision in taken:
        if decision.run:
            planning.batch_rows(decision.rows, job.spec.limits.batch_rows)
            if any(stage.spec.placement == "node" for stage in job.stages):
                planning.refuse_many_rows(decision.partition, decision.rows)
    plan_id = uuid.uuid4().hex[:12]
    key = ids.plan(request.run, plan_id)
    lines = [PlannedPartition(key=d.partition, run=d.run, reason=_short(d.reason), rows=d.rows) for d in taken]
    pages = planning.pages_of((len(line.model_dump_json()) + 1 for line in lines), MAX_PAYLOAD_BYTES - 1024)
    for number, page in enumerate(pages):
        content = Page(partitions=tuple(lines[at] for at in page))
        store.put_absent(ids.plan_page(key, number), content.model_dump_json().encode())
    canary = planning.sample([d for d in taken if d.run], course.canary_rows)
    if canary:
        content = Page(partitions=tuple(PlannedPartition(key=d.partition, run=True, rows=d.rows) for d in canary))
        store.put_absent(ids.plan_page(key, len(pages)), content.model_dump_json().encode())
    plan = Plan(
        plan_id=plan_id,
        request=ids.request(request.run),
        run=request.run,
        pipeline=request.pipeline,
        spec=request.spec,
        base=request.base,
        snapshot=job.snapshot.info.key,
        stages=job.shapes,
        aspects=job.aspects,
        code=code_digests(job.spec),
        selection=request.selection,
        pages=len(pages),
        partitions=len(taken),
        created_at=dt.datetime.now(dt.UTC),
    )
    store.put_absent(key, plan.model_dump_json().encode())
    return PlanRef(
        key=key,
        plan_id=plan_id,
        pages=len(pages),
        partitions=len(taken),
        to_run=sum(d.run for d in taken),
        rows=sum(d.rows for d in taken if d.run),
        windows=Windows(partitions=course.max_active or job.spec.limits.partitions_in_flight),
        canary_rows=sum(d.rows for d in canary),
        max_reject_rate=job.spec.limits.max_reject_rate,
        hooks=hooks_of(job.spec),
    )


def _short(reason: str) -> str:
    """A line of a page has to stay small, however many stages changed."""
    return reason if len(reason) <= 200 else f"{reason[:199]}…"


def limited(decided: list[Decision], limit: int | None) -> list[Decision]:
    """With `--limit-rows`, the partitions that hold the first N rows in plan order; a cut one has fewer `rows`."""
    if limit is None:
        return decided
    out, room = [], limit
    for decision in decided:
        if not decision.run:
            out.append(decision)
        elif room > 0:
            taken = min(room, decision.rows)
            out.append(replace(decision, rows=taken))
            room -= taken
    return out


def hooks_of(spec: Spec) -> tuple[tuple[str, ...], ...]:
    """Of each entry of `notify:`, what it wants to hear of."""
    return tuple(tuple(hook.on) for hook in spec.notify)


def load_plan(store: Store, key: str) -> Plan:
    return Plan.model_validate_json(store.get(key))


def load_page(store: Store, plan_key: str, page: int) -> Page:
    return Page.model_validate_json(store.get(ids.plan_page(plan_key, page)))


def planned_lines(store: Store, run: str, plan: str = "") -> Iterator[PlannedPartition]:
    """Each partition of a plan, or of all plans of a run where none is named."""
    prefix = f"{plan.removesuffix('plan.json')}page-" if plan else f"{ids.run_folder(run)}plan-"
    for info in store.list(prefix):
        if "/page-" in info.key:
            yield from Page.model_validate_json(store.get(info.key)).partitions


def planned_partitions(store: Store, run: str) -> set[str] | None:
    """The partitions that a run's plans would work on; None while it has no plan."""
    pages = [info.key for info in store.list(f"{ids.run_folder(run)}plan-") if "/page-" in info.key]
    if not pages:
        return None
    found = (Page.model_validate_json(store.get(key)) for key in pages)
    return {planned.key for page in found for planned in page.partitions if planned.run}


def unchanged(manifest: Manifest | None, fingerprint: str, stages: dict[str, str], *, answered: int) -> bool:
    """Does the current generation hold just what a run would publish? `answered`: of its pending rows."""
    return (
        manifest is not None
        and manifest.kind == "published"
        and manifest.input_fingerprint == fingerprint
        and dict(manifest.stage_fingerprints) == stages
        and not answered
    )
