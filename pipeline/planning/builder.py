"""Gather the published state and the present input, decide for each partition, and write the plan.

A plan freezes the spec (prompts inlined), the snapshot of the input and the digests of user code, so that later edits
of files don't touch a running run.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

import polars as pl

from pipeline.planning import batches, decide, saved_plan, unique_keys
from pipeline.planning.job import Job
from pipeline.planning.selection import due_partitions, retiring
from pipeline.planning.selection.partitions import select
from pipeline.planning.waiting_partitions import WaitingPartitions
from pipeline.progress_note import Note, unnoted
from pipeline.review.questions import answered_rows
from pipeline.runs.requests import load_request
from pipeline.sinks import catalogue
from pipeline.sinks.catalogue import Catalogue
from pipeline.sinks.schema import column_change, load_schema, refuse_breaking
from pipeline.sources.readiness import named
from pipeline.stores import Store
from schemas import ids
from schemas.manifest import Manifest
from schemas.messages.base import MAX_PAYLOAD_BYTES, Concurrency, RunRef
from schemas.messages.jobs import JobTerms
from schemas.messages.run import Page, PlannedPartition, PlanRef, RunOptions
from schemas.plan import Cause, Decision, Plan, Reprocess, Retirement, Retirements, RunRequest, Selection
from schemas.spec.sections import Limits, Spec
from stages.stage_digests import code_digests

_AS_SPECIFIED = RunOptions()


# Decisions ---------------------------------------------------------------------------------------------------------


def decisions(
    job: Job,
    store: Store,
    selection: Selection,
    now: dt.datetime,
    *,
    note: Note = unnoted,
    known: Catalogue | None = None,
) -> Iterator[Decision]:
    """Decide for each selected partition, in order of key. `known`: the catalogue of all, if it was read already.
    Raises UsageError for an empty selection, SchemaChanged, PlanOutdated for a saved plan that is no longer valid."""
    refuse_breaking(store, job.columns, job.keys, new_version=selection.new_version)
    if selection.agreed:
        yield from _of_saved_plan(job, store, selection, note)
        return
    waiting = WaitingPartitions(job, store)
    entries = _entries(job, waiting.own)
    available: list[str] = entries["partition"].to_list()
    of_source = _of_source(selection, available)
    levels = _levels(job, of_source, available, now) if _selects_source(of_source, selection) else {}
    chosen = list(levels)
    change = column_change(load_schema(store), job.columns)
    shape = decide.OutputShape(job.shapes, job.aspects, tuple(job.snapshot.schema.names), change)
    found = known or catalogue.read(store, chosen, note=note)
    failed = catalogue.failed(found.attempts)
    rows = entries.filter(pl.col("partition").is_in(chosen))
    for key, count, fingerprint, is_current, generation, run, index, *text in _compared(
        rows, found.published, shape
    ).iter_rows():
        note(0)
        one = decide.PartitionInput(key, count, fingerprint)
        if is_current and key not in failed and key not in waiting.own:
            decision = decide.up_to_date(one, levels[key], generation=generation, published_by=run, index=index)
            if not decision.run:
                yield decision
                continue
        manifest = catalogue.manifest_of(*text)
        decision = decide.decide(
            one,
            manifest,
            shape=shape,
            reprocess=levels[key],
            last_failed=failed.get(key),
            answered=answered_rows(store, manifest),
        )
        reason = waiting.reason(key, manifest) if decision.run or key in waiting.own else None
        yield decision if reason is None else replace(decision, run=False, causes=(Cause("waiting", reason),))
    # What is in a file that waits looks as if it were gone.
    if retiring.may_retire(job.spec.partition, selection) and not job.snapshot.waiting:
        yield from _retirements(job, known or catalogue.read(store, note=note), store, selection, now)


def _compared(entries: pl.DataFrame, published: pl.DataFrame, shape: decide.OutputShape) -> pl.DataFrame:
    """Join the partitions of the input with their generations: `is_current` where these have the same input and shape,
    and no rows that wait for a person."""
    shapes = published["shape"].cast(pl.String).unique().to_list()
    current = [text for text in shapes if decide.is_current_shape(catalogue.of_shape(text), shape)]
    is_current = (
        (pl.col("kind") == "published")
        & (pl.col("pending") == 0)
        & (pl.col("input_fingerprint") == pl.col("fingerprint"))
        & pl.col("shape").cast(pl.String).is_in(current)
    )
    joined = entries.join(published, on="partition", how="left", maintain_order="left")
    return joined.select(
        "partition", "rows", "fingerprint", is_current.fill_null(value=False), "generation", "run", "index_key",
        "manifest", "shape",
    )  # fmt: skip


def _selects_source(of_source: Selection, selection: Selection) -> bool:
    """False if only partitions are named that `--prune` is to retire."""
    return not (selection.prune and selection.partitions) or bool(of_source.partitions)


def _of_source(selection: Selection, available: Iterable[str]) -> Selection:
    """Return the selection without named partitions that the source does not have, where they are to be retired."""
    if not selection.prune or not selection.partitions:
        return selection
    present = set(available)
    return selection.model_copy(update={"partitions": tuple(p for p in selection.partitions if p in present)})


def _retirements(
    job: Job, known: Catalogue, store: Store, selection: Selection, now: dt.datetime
) -> Iterator[Decision]:
    """Decide which published partitions are retired, as the source has them no more."""
    published = known.published
    present = job.snapshot.partitions
    missing = [
        manifest
        for manifest in catalogue.manifests(published.filter(~pl.col("partition").is_in(list(present))))
        if manifest.present
    ]
    if not missing:
        return
    retired = pl.col("manifest").str.contains('"kind":"retired"', literal=True)
    fresh = job.snapshot.entries.join(published.filter(~retired), on="partition", how="anti")
    entries = dict(fresh.select("fingerprint", "partition").iter_rows()) | _noted_moves(store, job, missing)
    source = retiring.Source(frozenset(present), entries)
    yield from retiring.retirements(missing, source, job.spec.partition, selection, now)


def _noted_moves(store: Store, job: Job, missing: Iterable[Manifest]) -> dict[str, str]:
    """Return moves that an earlier run began: the new partition is published, the former one not yet retired."""
    inputs = dict(job.snapshot.entries.select("fingerprint", "partition").iter_rows())
    noted = {info.key for info in store.list(ids.MOVED)}
    prints = {one.input_fingerprint for one in missing if ids.moved(one.partition) in noted}
    return {fingerprint: inputs[fingerprint] for fingerprint in prints if fingerprint in inputs}


def _entries(job: Job, waiting: Iterable[str]) -> pl.DataFrame:
    """Return the partitions of the input, with those of which all files wait; these have no rows yet."""
    entries = job.snapshot.entries.select("partition", "rows", "fingerprint")
    absent = sorted(set(waiting).difference(job.snapshot.partitions))
    if not absent:
        return entries
    more = pl.DataFrame({"partition": absent, "rows": 0, "fingerprint": ""}, schema=entries.schema)
    return pl.concat([entries, more]).sort("partition")


def _levels(job: Job, selection: Selection, available: list[str], now: dt.datetime) -> dict[str, Reprocess]:
    """Return the selected partitions, each with the difference that makes it run."""
    partition = job.spec.partition
    every = partition.every if partition.by == "time" else None
    if selection.due is not None:
        return due_partitions.due_levels(available, selection.due, every=every, zone=partition.zone)
    chosen = select(available, selection, every=every, zone=partition.zone, now=now)
    return dict.fromkeys(chosen, selection.reprocess)


def _of_saved_plan(job: Job, store: Store, selection: Selection, note: Note) -> list[Decision]:
    saved = saved_plan.load(store, selection.agreed)
    decided = list(decisions(job, store, saved.selection, saved.created_at, note=note))

    @lru_cache
    def own(run: str) -> bool:
        request = load_request(store, run)
        return request is not None and request.selection.agreed == selection.agreed

    return saved_plan.verify_still_valid(saved, decided, job.shapes, own)


# Writing and reading plans -----------------------------------------------------------------------------------------


def write_plan(
    store: Store,
    ref: RunRef,
    request: RunRequest,
    job: Job,
    chosen: Iterable[Decision],
    options: RunOptions = _AS_SPECIFIED,
) -> PlanRef:
    """Write the pages, and the canary's after them, then the plan."""
    found = list(chosen)
    planned = limited([decision for decision in found if not decision.retire], request.selection.limit_rows)
    retired = [decision for decision in found if decision.retire]
    if options.backwards:
        planned.reverse()
    for decision in planned:
        if decision.run:
            batches.batch_rows(decision.rows, job.spec.limits.batch_rows)
            if any(stage.spec.placement == "node" for stage in job.stages):
                batches.refuse_many_rows(decision.partition, decision.rows)
    plan_id = uuid.uuid4().hex[:12]
    key = ids.plan(request.run, plan_id)
    lines = [PlannedPartition(key=d.partition, run=d.run, reason=_short(d.reason), rows=d.rows) for d in planned]
    pages = batches.pages_of((len(line.model_dump_json()) + 1 for line in lines), MAX_PAYLOAD_BYTES - 1024)
    for number, page in enumerate(pages):
        content = Page(partitions=tuple(lines[index] for index in page))
        store.put_absent(ids.plan_page(key, number), content.model_dump_json().encode())
    for shared in unique_keys.find(job, store, [*planned, *retired]):
        where = ids.shared_keys(request.run, plan_id, shared.partition)
        store.put_absent(where, shared.model_dump_json().encode())
    canary = batches.sample([d for d in planned if d.run], options.canary_rows)
    if canary:
        content = Page(partitions=tuple(PlannedPartition(key=d.partition, run=True, rows=d.rows) for d in canary))
        store.put_absent(ids.plan_page(key, len(pages)), content.model_dump_json().encode())
    _drop_outdated_moves(store, job)
    _write_retirements(store, key, retired)
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
        partitions=len(planned),
        created_at=dt.datetime.now(dt.UTC),
        waiting=named(job.snapshot.waiting),
    )
    store.put_absent(key, plan.model_dump_json().encode())
    return PlanRef(
        key=key,
        plan_id=plan_id,
        pages=len(pages),
        partitions=len(planned),
        to_run=sum(d.run for d in planned),
        rows=sum(d.rows for d in planned if d.run),
        windows=Concurrency(partitions=options.max_active or job.spec.limits.partitions_in_flight),
        canary_rows=sum(d.rows for d in canary),
        max_reject_rate=job.spec.limits.max_reject_rate,
        hooks=hooks_of(job.spec),
        jobs=_job_terms(job.spec.limits),
    )


def _job_terms(limits: Limits) -> JobTerms:
    return JobTerms(
        gather_s=limits.gather.total_seconds(),
        deadline_s=limits.deadline.total_seconds(),
        after_deadline=limits.after_deadline,
        max_waves=limits.max_waves,
    )


def _drop_outdated_moves(store: Store, job: Job) -> None:
    """Remove the notes of files that are back under their former names: they did not move."""
    present = set(job.snapshot.partitions)
    outdated = [info.key for info in store.list(ids.MOVED) if ids.parse_moved(info.key) in present]
    if outdated:  # a writer that may not delete is only refused where there is something to delete
        store.delete(outdated)


def _write_retirements(store: Store, plan: str, retired: list[Decision]) -> None:
    """Write the partitions that the plan retires, and a note of each that was moved, in case that a kill comes between
    the publication of its new partition and the end of the run."""
    if not retired:
        return
    lines = []
    for decision in retired:
        if decision.moved_to:
            store.put(ids.moved(decision.partition), b"{}")
        lines.append(
            Retirement(
                partition=decision.partition, generation=decision.generation, rows=decision.rows,
                fingerprint=decision.fingerprint, moved_to=decision.moved_to,
            )
        )  # fmt: skip
    store.put_absent(ids.retirements(plan), Retirements(partitions=tuple(lines)).model_dump_json().encode())


def _short(reason: str) -> str:
    """Shorten a reason: a line of a page has to stay small, however many stages changed."""
    return reason if len(reason) <= 200 else f"{reason[:199]}…"


def limited(decided: list[Decision], limit: int | None) -> list[Decision]:
    """Return the partitions that hold the first `limit` rows in plan order; a cut one has fewer `rows`."""
    if limit is None:
        return decided
    kept, room = [], limit
    for decision in decided:
        if not decision.run:
            kept.append(decision)
        elif room > 0:
            count = min(room, decision.rows)
            kept.append(replace(decision, rows=count))
            room -= count
    return kept


def hooks_of(spec: Spec) -> tuple[tuple[str, ...], ...]:
    """Return the events of each entry of `notify:`."""
    return tuple(tuple(hook.on) for hook in spec.notify)
