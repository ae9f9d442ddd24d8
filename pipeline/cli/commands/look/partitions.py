"""`tandem partitions …`: show what is published and how the last attempt ended, separately."""

import datetime as dt
from pathlib import Path
from typing import Any

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, broken, counted, money
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.clouds import model_services
from pipeline.planning import builder
from pipeline.planning.job import Job
from pipeline.planning.partition_status import STATUSES, PartitionStatus, partition_statuses
from pipeline.runs.report import PartitionCheck, as_json_check
from pipeline.sinks import commits
from pipeline.sinks.outcomes import load_outcome
from pipeline.stores import Store
from schemas.errors import ConnectionFailed, StoreError, UsageError
from schemas.manifest import Manifest
from schemas.plan import Selection

_SHOWN = 200


def _opened(path: Path, screen: Screen) -> tuple[Store, Job | None]:
    """Return the sink, and the job if the source can be read: what is published is known without it."""
    from pipeline.planning.preparation import make_job  # it builds the graphs: LangGraph, more than a second

    spec, base = read_spec(path)
    store = sink_of(spec, base)
    try:
        return store, make_job(spec, base, store, model_services())
    except (UsageError, ConnectionFailed, StoreError) as exc:
        screen.fault(f"The due partitions are unknown: {exc}")
        return store, None


def list_command(path: Path, status: list[str], screen: Screen) -> int:
    """List partitions."""
    unknown = [name for name in status if name not in STATUSES]
    if unknown:
        raise UsageError(f"--status {unknown[0]}: not one of {', '.join(STATUSES)}.")
    store, job = _opened(path, screen)
    now = dt.datetime.now(dt.UTC)
    selected = (
        partition
        for partition in partition_statuses(store, job, now)
        if not status or partition.statuses.intersection(status)
    )
    if screen.json:
        screen.documents(as_json(partition) for partition in selected)
        return 0
    found = list(selected)
    screen.table(
        ("partition", "published", "rows", "rejected", "last attempt", "in run", "what a run would do"),
        [_line(partition) for partition in found[:_SHOWN]],
    )
    if len(found) > _SHOWN:
        screen.note(f"… and {len(found) - _SHOWN:,} more; all of them: --json, some of them: --status")
    if not found:
        screen.note("No partition has this status." if status else "There are no partitions.")
    gone = sum(partition.gone and not partition.retired for partition in found)
    if gone and "gone" not in status:
        screen.note(
            f"{counted(gone, 'partition')} gone from the source; what is published of them is kept. "
            "tandem run --prune retires them."
        )
    return 0


def _line(status: PartitionStatus) -> tuple[object, ...]:
    manifest, attempt = status.published, status.attempt
    counts = manifest.counts if manifest is not None else None
    return (
        status.partition,
        "retired" if status.retired else _published_text(manifest),
        counts.out if counts else 0,
        counts.rejected if counts else 0,
        "" if attempt is None else attempt.outcome + (f" ({attempt.error})" if attempt.error else ""),
        "" if attempt is None else attempt.run,
        ("run: " if status.due else "skip: ") + status.reason if not status.gone else status.reason,
    )


def _published_text(manifest: Manifest | None) -> str:
    if manifest is None:
        return "never"
    partly = "partly, " if manifest.kind == "partial" else ""
    return f"{partly}generation {manifest.generation}, {manifest.committed_at.astimezone(dt.UTC):%Y-%m-%d %H:%M}"


def as_json(status: PartitionStatus) -> dict[str, Any]:
    manifest, attempt = status.published, status.attempt
    published = manifest and {
        "kind": manifest.kind,
        "generation": manifest.generation,
        "run": manifest.run,
        "at": _iso(manifest.committed_at),
        "rows": manifest.counts.out,
        "rejected": manifest.counts.rejected,
        "pending": manifest.counts.pending,
        "bytes": status.bytes,
    }
    ended = attempt and {
        "outcome": attempt.outcome,
        "run": attempt.run,
        "at": _iso(attempt.at),
        "error": attempt.error,
        "message": attempt.message,
    }
    return {
        "partition": status.partition,
        "published": published,
        "last_attempt": ended,
        "decision": "gone" if status.gone else "run" if status.due else "skip",
        "reason": status.reason,
    }


def _iso(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def show_command(path: Path, key: str | None, screen: Screen) -> int:
    """Show one partition: what is published, the last attempt, the rows that changed, and its generations."""
    if key is None:
        raise UsageError(
            "partitions show needs the KEY of a partition.",
            hint=f"For example: {command()} partitions show day=2026-11-01",
        )
    store, job = _opened(path, screen)
    now = dt.datetime.now(dt.UTC)
    status = next((found for found in partition_statuses(store, job, now) if found.partition == key), None)
    if status is None:
        raise UsageError(f"{key}: no such partition.", hint=f"See: {command()} partitions list {path}")
    rows: dict[str, int] | None = None
    if job is not None and not status.gone:
        from pipeline.estimates.call_count import count_calls  # it runs the graphs, by what the journal knows

        decided = list(builder.decisions(job, store, Selection(partitions=(key,)), now))
        (decision,) = count_calls(job, store, decided).decisions
        rows = decision.moved.model_dump()
    history = list(commits.history(store, key))
    checks = _checks(store, status, history)
    if screen.json:
        generations = [_generation(manifest) for manifest in history]
        details = {"checks": [as_json_check(check) for check in checks], "generations": generations}
        screen.document({**as_json(status), "rows": rows, **details})
        return 0
    _show(status, rows, history, screen)
    for check in checks:
        screen.result(f"  {broken(check)}")
    return 0


def _checks(store: Store, status: PartitionStatus, history: list[Manifest]) -> tuple[PartitionCheck, ...]:
    """Return the broken checks of the last attempt, else of what is published."""
    attempt = status.attempt
    last = load_outcome(store, attempt.run, status.partition) if attempt is not None else None
    published = [manifest for manifest in history if manifest.kind != "tombstone"]
    if last is not None and last.outcome in ("published", "failed"):
        found = last.checks
    else:
        found = published[-1].checks if published else ()
    return tuple(PartitionCheck(partition=status.partition, **check.model_dump()) for check in found)


def _show(status: PartitionStatus, rows: dict[str, int] | None, history: list[Manifest], screen: Screen) -> None:
    screen.result(f"{status.partition}")
    screen.result(f"  published: {_published_text(status.published)}")
    if status.published is not None:
        counts = status.published.counts
        became = (f"{getattr(counts, name):,} {name}" for name in ("ok", "rejected", "filtered", "pending"))
        screen.result(f"    {counts.rows_in:,} rows in: {', '.join(became)}; {counts.out:,} published")
    attempt = status.attempt
    if attempt is None:
        screen.result("  last attempt: none")
    else:
        error = f": {attempt.error}: {attempt.message}" if attempt.error else ""
        screen.result(f"  last attempt: {attempt.outcome} in run {attempt.run} at {_iso(attempt.at)}{error}")
    moved = "" if rows is None else f" ({', '.join(f'{count:,} {name}' for name, count in rows.items())} rows)"
    due = "" if status.gone else "would run: " if status.due else "would be skipped: "
    screen.result(f"  {due}{status.reason}{moved}")
    for manifest in history:
        entry = _generation(manifest)
        cost = money(manifest.usage.cost_usd)
        screen.result(f"  generation {entry['generation']}: {entry['kind']} by {entry['run']} at {entry['at']}, "
                      f"{entry['rows']:,} rows, {counted(entry['calls'], 'call')}, {cost}")  # fmt: skip
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
