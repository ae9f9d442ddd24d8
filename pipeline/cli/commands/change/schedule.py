"""`tandem schedule …`: runs at set times. No command here runs a worker; one must be up when a schedule fires."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.cli.environment import command_in
from pipeline.cli.screen.console import Screen
from pipeline.client import known_pipelines, schedules
from pipeline.client.connection import Connection, connected
from pipeline.client.known_pipelines import DEFAULT_SPEC
from pipeline.client.schedules import ExistingSchedule
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.embedded.dev import dev_is_up
from pipeline.operations import schedules as operations
from pipeline.settings import temporal_configured
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.schedule import ScheduleTerms
from schemas.spec.sections import Spec


async def apply_command(path: Path, flags: schedules.ScheduleFlags, screen: Screen) -> int:
    """Create the pipeline's schedule or update it; applying the same again changes nothing."""
    from pipeline.client.preflight import preflight  # it builds the graphs: LangGraph, more than a second

    spec, base = read_spec(path)
    terms = schedules.terms_of(spec, flags)
    ready = await asyncio.to_thread(preflight, spec, base, file=path)
    known_pipelines.remember(spec.name, ready.store, ready.base, path)
    async with connected(base) as connection:
        applied = await schedules.apply(connection, ready.store, spec, str(ready.base), terms)
        schedule = await schedules.find(connection.client, applied.id)
    assert schedule is not None
    if screen.json:
        changes = [{"name": c.name, "before": c.before, "after": c.after} for c in applied.changes]
        outcome = "created" if applied.created else "changed" if changes else "unchanged"
        screen.document({"outcome": outcome, "changes": changes, **_as_json(schedule, spec="current")})
        return 0
    if applied.created:
        screen.result(f"{spec.name} is scheduled: {_describe(terms)}.")
    elif applied.changes:
        screen.result(f"The schedule of {spec.name} is changed:")
        for change in applied.changes:
            screen.result(f"  {change.name}: {change.before} → {change.after}")
    else:
        screen.result(f"The schedule of {spec.name} is as it was: {_describe(terms)}.")
    _show_next(schedule, screen)
    _show_dev_hint(base, screen)
    return 0


def _describe(terms: ScheduleTerms) -> str:
    partitions = "looks for new files" if terms.when == "new-files" else "takes what is over"
    return f"{terms.cron} ({terms.time_zone}), {partitions}, overlap {terms.overlap_policy}, lookback {terms.lookback}"


def _show_next(schedule: ExistingSchedule, screen: Screen) -> None:
    if schedule.paused:
        screen.note(
            f"It is paused{': ' * bool(schedule.note)}{schedule.note}. Let it go on with: tandem schedule unpause"
        )
    elif schedule.next:
        screen.note(f"Next: {_local(schedule.next[0], schedule.inputs.terms)}")


def _local(time: dt.datetime, terms: ScheduleTerms) -> str:
    return time.astimezone(ZoneInfo(terms.time_zone)).strftime("%Y-%m-%d %H:%M:%S %Z")


def _show_dev_hint(base: Path, screen: Screen) -> None:
    if not temporal_configured() and not dev_is_up(base):
        screen.note(f"With the embedded server it fires only while this is up: {command_in(base, 'dev')}")


# The others --------------------------------------------------------------------------------------------------------


async def list_command(screen: Screen) -> int:
    """List the schedules of the server."""
    async with connected(Path.cwd()) as connection:
        listed = [schedule async for schedule in schedules.list_schedules(connection.client)]
    if screen.json:
        screen.document([_as_json(schedule, spec=None) for schedule in listed])
        return 0
    screen.table(
        ("pipeline", "cron", "zone", "takes", "state", "next"),
        [
            (
                schedule.inputs.ref.pipeline,
                schedule.inputs.terms.cron,
                schedule.inputs.terms.time_zone,
                schedule.inputs.terms.when,
                "paused" if schedule.paused else "active",
                _local(schedule.next[0], schedule.inputs.terms) if schedule.next and not schedule.paused else "",
            )
            for schedule in listed
        ],
    )
    if not listed:
        screen.note("Nothing is scheduled here. Schedule a pipeline with: tandem schedule apply SPEC")
    return 0


async def show_command(target: str, screen: Screen) -> int:
    """Show a schedule: its settings, its next time, the runs it started last."""
    async with _target(target) as (connection, schedule, spec):
        changed = await asyncio.to_thread(operations.spec_changes, schedule, spec)
        runs = await asyncio.to_thread(lambda: [schedules.run_of(schedule, time) for time in schedule.recent])
        notes = [await schedules.note_of(connection.client, workflow) for workflow in schedule.recent_workflows]
        recent = list(zip(schedule.recent, runs, notes, strict=True))
        spec_state = None if spec is None else "changed" if changed else "current"
    if screen.json:
        fired = [{"at": _iso(time), "run": run, "note": note} for time, run, note in recent]
        screen.document({**_as_json(schedule, spec=spec_state), "recent": fired})
        return 0
    screen.result(f"{schedule.inputs.ref.pipeline}: {_describe(schedule.inputs.terms)}")
    if changed:
        screen.result(f"  the spec has changed since it was applied ({', '.join(changed)}); apply it again to use that")
    for time, run, note in recent[-5:]:
        outcome = "; ".join(text for text in (run, note) if text) or "nothing to do"
        screen.result(f"  fired {_local(time, schedule.inputs.terms)}: {outcome}")
    _show_next(schedule, screen)
    return 0


async def pause_command(target: str, reason: str, screen: Screen) -> int:
    async with _target(target) as (connection, schedule, _):
        await _show_state(connection, schedule, screen, await operations.pause(connection, schedule, reason))
    return 0


async def unpause_command(target: str, screen: Screen) -> int:
    async with _target(target) as (connection, schedule, _):
        await _show_state(connection, schedule, screen, await operations.unpause(connection, schedule))
    return 0


async def trigger_command(target: str, screen: Screen) -> int:
    """Fire now, with the applied spec. Raises UsageError if the spec has changed since."""
    async with _target(target) as (connection, schedule, spec):
        text = await operations.trigger(connection, schedule, spec, target)
        await _show_state(connection, schedule, screen, text)
    _show_dev_hint(Path(schedule.inputs.base), screen)
    return 0


async def delete_command(target: str, screen: Screen) -> int:
    """Delete a schedule. Open runs go on."""
    async with _target(target) as (connection, schedule, _):
        await schedules.handle_of(connection.client, schedule).delete()
    if screen.json:
        screen.document({"schedule": schedule.id, "deleted": True})
    else:
        screen.result(f"The schedule of {schedule.inputs.ref.pipeline} is deleted; an open run goes on.")
    return 0


async def next_command(target: str, count: int, screen: Screen) -> int:
    """Show the next times, in the schedule's zone and in UTC."""
    async with _target(target) as (connection, schedule, _):
        times = await schedules.next_times(connection.client, schedule.id, count, dt.datetime.now(dt.UTC))
    terms = schedule.inputs.terms
    if screen.json:
        screen.document([{"at": _iso(time), "local": _local(time, terms)} for time in times])
        return 0
    for time in times:
        screen.result(f"{_local(time, terms)}  ({_iso(time)})")
    if schedule.paused:
        screen.note("It is paused: until it is unpaused, none of these fires.")
    return 0


async def _show_state(connection: Connection, schedule: ExistingSchedule, screen: Screen, text: str) -> None:
    if screen.json:
        now = await schedules.find(connection.client, schedule.id)
        screen.document(_as_json(now or schedule, spec=None))
    else:
        screen.result(text)


@asynccontextmanager
async def _target(target: str) -> AsyncIterator[tuple[Connection, ExistingSchedule, Spec | None]]:
    """Yield the schedule of a spec or of a pipeline's name, and the spec as it is now. Raises UsageError."""
    spec, base = await asyncio.to_thread(_spec_of, target)
    async with connected(base) as connection:
        schedule = None
        if spec is not None:
            store = await asyncio.to_thread(sink_of, spec, base)
            schedule = await schedules.find(connection.client, ids.schedule_id(spec.name, store.uri))
        else:
            async for candidate in schedules.list_schedules(connection.client):
                if target in (candidate.inputs.ref.pipeline, candidate.id):
                    schedule = candidate
        if schedule is None:
            name = spec.name if spec is not None else target
            raise UsageError(
                f"There is no schedule of {name!r} here.", hint="See: tandem schedule list; tandem schedule apply SPEC"
            )
        yield connection, schedule, spec


def _spec_of(target: str) -> tuple[Spec | None, Path]:
    """Return the spec of a path and its folder; no spec for a pipeline's name."""
    path = Path(target)
    named = path != DEFAULT_SPEC and not path.exists() and path.suffix not in (".yaml", ".yml")
    return (None, Path.cwd()) if named else read_spec(path)


def _as_json(schedule: ExistingSchedule, *, spec: str | None) -> dict[str, Any]:
    """Return the JSON of a schedule. `spec`: current or changed, None where it was not compared."""
    inputs = schedule.inputs
    return {
        "schedule": schedule.id,
        "pipeline": inputs.ref.pipeline,
        "sink": inputs.ref.sink,
        **inputs.terms.model_dump(),
        "paused": schedule.paused,
        "note": schedule.note,
        "spec": spec,
        "next": [_iso(time) for time in schedule.next],
    }


def _iso(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
