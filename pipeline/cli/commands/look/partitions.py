"""`tandem partitions …`: what is published and how the last attempt ended, as facts of their own."""

import datetime as dt
from pathlib import Path
from typing import Any

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, broken, counted, money
from pipeline.client.preflight import read_spec, sink_of
from pipeline.estimates.call_count import count_calls
from pipeline.planning import builder
from pipeline.planning.job import Job, make_job
from pipeline.planning.partition_status import STATUSES, PartitionStatus, partition_statuses
from pipeline.runs.outcomes import load_outcome
from pipeline.runs.report import PartitionCheck, as_json_check
from pipeline.sinks import commits
from pipeline.stores import Store
from schemas.errors import ConnectionFailed, StoreError, UsageError
from schemas.manifest import Manifest
from schemas.plan import Selection
from stages.models.factory import ModelServices

_SHOWN = 200


def _opened(path: Path, screen: Screen) -> tuple[Store, Job | None]:
    """The sink, and the job where the source can be read: what is published can be told without it."""
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    try:
        return store, make_job(spec, base, store, ModelServices())
    except (UsageError, ConnectionFailed, StoreError) as exc:
        screen.fault(f"What is due is not known: {exc}")
        return store, None


def list_command(path: Path, status: list[str], screen: Screen) -> int:
    """A line a partition."""
    unknown = [word for word in status if word not in STATUSES]
    if unknown:
        raise UsageError(f"--status {unknown[0]}: not one of {', '.join(STATUSES)}.")
    store, job = _opened(path, screen)
    now = dt.datetime.now(dt.UTC)
    so = (
        standing
        for standing in partition_statuses(store, job, now)
        if not status or standing.statuses.intersection(status)
    )
    if screen.json:
        screen.documents(as_json(standing) for standing in so)
        return 0
    found = list(so)
    screen.table(
        ("partition", "published", "rows", "rejected", "last attempt", "in run", "what a run would do"),
        [_line(standing) for standing in found[:_SHOWN]],
    )
    if len(found) > _SHOWN:
        screen.say(f"… and {len(found) - _SHOWN:,} more; all of them: --json, some of them: --status")
    if not found:
        screen.say("No partition is so." if status else "There are no partitions.")
    gone = sum(standing.gone for standing in found)
    if gone and "gone" not in status:
        screen.say(f"{counted(gone, 'partition')} gone from the source; what is published of them is kept.")
    return 0


def _line(standing: PartitionStatus) -> tuple[object, ...]:
    manifest, attempt = standing.published, standing.attempt
    counts = manifest.counts if manifest is not None else None
    return (
        standing.partition,
        _said(manifest),
        counts.out if counts else 0,
        counts.rejected if counts else 0,
        "" if attempt is None else attempt.outcome + (f" ({attempt.error})" if attempt.error else ""),
        "" if attempt is None else attempt.run,
        ("run: " if standing.due else "skip: ") + standing.reason if not standing.gone else standing.reason,
    )


def _said(manifest: Manifest | None) -> str:
    if manifest is None:
        return "never"
    partly = "partly, " if manifest.kind == "partial" else ""
    return f"{partly}generation {manifest.generation}, {manifest.committed_at.astimezone(dt.UTC):%Y-%m-%d %H:%M}"


def as_json(standing: PartitionStatus) -> dict[str, Any]:
    manifest, attempt = standing.published, standing.attempt
    published = manifest and {
        "kind": manifest.kind,
        "generation": manifest.generation,
        "run": manifest.run,
        "at": _iso(manifest.committed_at),
        "rows": manifest.counts.out,
        "rejected": manifest.counts.rejected,
        "pending": manifest.counts.pending,
        "bytes": standing.bytes,
    }
    ended = attempt and {
        "outcome": attempt.outcome,
        "run": attempt.run,
        "at": _iso(attempt.at),
        "error": attempt.error,
        "message": attempt.message,
    }
    return {
        "partition": standing.partition,
        "published": published,
        "last_attempt": ended,
        "decision": "gone" if standing.gone else "run" if standing.due else "skip",
        "reason": standing.reason,
    }


def _iso(when: dt.datetime) -> str:
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def show_command(path: Path, key: str | None, screen: Screen) -> int:
    """All that is known of one partition: both facts, the rows that moved, and its generations."""
    if key is None:
        raise UsageError("Which partition?", hint=f"{command()} partitions show KEY, for example day=2026-11-01")
    store, job = _opened(path, screen)
    now = dt.datetime.now(dt.UTC)
    standing = next((found for found in partition_statuses(store, job, now) if found.partition == key), None)
    if standing is None:
        raise UsageError(f"{key}: no such partition.", hint=f"See: {command()} partitions list {path}")
    rows: dict[str, int] | None = None
    if job is not None and not standing.gone:
        decided = list(builder.decisions(job, store, Selection(partitions=(key,)), now))
        (decision,) = count_calls(job, store, decided).decisions
        rows = decision.moved.model_dump()
    history = list(commits.history(store, key))
    checks = _checks(store, standing, history)
    if screen.json:
        generations = [_generation(manifest) for manifest in history]
        said = {"checks": [as_json_check(check) for check in checks], "generations": generations}
        screen.document({**as_json(standing), "rows": rows, **said})
        return 0
    _show(standing, rows, history, screen)
    for check in checks:
        screen.result(f"  {broken(check)}")
    return 0


def _checks(store: Store, standing: PartitionStatus, history: list[Manifest]) -> tuple[PartitionCheck, ...]:
    """The checks that rows break: of the last attempt, else of what is published."""
    attempt = standing.attempt
    last = load_outcome(store, attempt.run, standing.partition) if attempt is not None else None
    published = [manifest for manifest in history if manifest.kind != "tombstone"]
    if last is not None and last.outcome in ("published", "failed"):
        found = last.checks
    else:
        found = published[-1].checks if published else ()
    return tuple(PartitionCheck(partition=standing.partition, **check.model_dump()) for check in found)


def _show(standing: PartitionStatus, rows: dict[str, int] | None, history: list[Manifest], screen: Screen) -> None:
    screen.result(f"{standing.partition}")
    screen.result(f"  published: {_said(standing.published)}")
    if standing.published is not None:
        counts = standing.published.counts
        became = (f"{getattr(counts, name):,} {name}" for name in ("ok", "rejected", "filtered", "pending"))
        screen.result(f"    {counts.rows_in:,} rows in: {', '.join(became)}; {counts.out:,} published")
    attempt = standing.attempt
    if attempt is None:
        screen.result("  last attempt: none")
    else:
        why = f": {attempt.error}: {attempt.message}" if attempt.error else ""
        screen.result(f"  last attempt: {attempt.outcome} in run {attempt.run} at {_iso(attempt.at)}{why}")
    moved = "" if rows is None else f" ({', '.join(f'{count:,} {name}' for name, count in rows.items())} rows)"
    due = "" if standing.gone else "would run: " if standing.due else "would be skipped: "
    screen.result(f"  {due}{standing.reason}{moved}")
    for manifest in history:
        said = _generation(manifest)
        cost = money(manifest.usage.cost_usd)
        screen.result(f"  generation {said['generation']}: {said['kind']} by {said['run']} at {said['at']}, "
                      f"{said['rows']:,} rows, {counted(said['calls'], 'call')}, {cost}")  # fmt: skip
        for warning in manifest.warnings:
            screen.result(f"    {warning}")


def _generation(manifest: Manifest) -> dict[str, Any]:
    return {
        "checks": [as_json_check(check) for check in manifest.checks],
        "generation": manifest.generation,
        "kind": manifest.kind,
        "run": manifest.run,
        "at": _iso(manifest.committed_at),
        "rows": manifest.counts.out,
        "calls": manifest.usage.calls,
        "cost_usd": round(manifest.usage.cost_usd, 6),
    }
