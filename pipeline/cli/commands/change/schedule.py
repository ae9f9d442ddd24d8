"""`tandem schedule …`: runs at their time. None of these works itself; a worker has to be up when a schedule fires."""

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
from pipeline.client.preflight import preflight, read_spec, sink_of
from pipeline.client.schedules import Found
from pipeline.embedded.dev import dev_is_up
from pipeline.settings import temporal_configured
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.schedule import ScheduleTerms
from schemas.spec.sections import Spec


async def apply_command(path: Path, flags: schedules.ScheduleFlags, screen: Screen) -> int:
    """Create the pipeline's schedule or change what differs; the same again changes nothing."""
    spec, base = read_spec(path)
    terms = schedules.terms_of(spec, flags)
    ready = await asyncio.to_thread(preflight, spec, base, file=path)
    known_pipelines.remember(ready, path)
    async with connected(base) as found:
        applied = await schedules.apply(found, ready.store, spec, str(ready.base), terms)
        there = await schedules.find(found.client, applied.id)
    assert there is not None
    if screen.json:
        changes = [{"name": c.name, "before": c.before, "after": c.after} for c in applied.changes]
        outcome = "created" if applied.created else "changed" if changes else "unchanged"
        screen.document({"outcome": outcome, "changes": changes, **_as_json(there, spec="current")})
        return 0
    if applied.created:
        screen.result(f"{spec.name} is scheduled: {_said(terms)}.")
    elif applied.changes:
        screen.result(f"The schedule of {spec.name} is changed:")
        for change in applied.changes:
            screen.result(f"  {change.name}: {change.before} → {change.after}")
    else:
        screen.result(f"The schedule of {spec.name} is as it was: {_said(terms)}.")
    _say_next(there, screen)
    _say_dev(base, screen)
    return 0


def _said(terms: ScheduleTerms) -> str:
    what = "looks for new files" if terms.when == "new-files" else "takes what is over"
    return f"{terms.cron} ({terms.time_zone}), {what}, overlap {terms.overlap_policy}, lookback {terms.lookback}"


def _say_next(there: Found, screen: Screen) -> None:
    if there.paused:
        screen.say(f"It is paused{': ' * bool(there.note)}{there.note}. Let it go on with: tandem schedule unpause")
    elif there.next:
        screen.say(f"Next: {_local(there.next[0], there.given.terms)}")


def _local(when: dt.datetime, terms: ScheduleTerms) -> str:
    return when.astimezone(ZoneInfo(terms.time_zone)).strftime("%Y-%m-%d %H:%M:%S %Z")


def _say_dev(base: Path, screen: Screen) -> None:
    if not temporal_configured() and not dev_is_up(base):
        screen.say(f"With the embedded server it fires only while this is up: {command_in(base, 'dev')}")


# The others --------------------------------------------------------------------------------------------------------


async def list_command(screen: Screen) -> int:
    """A line a schedule of the server."""
    async with connected(Path.cwd()) as found:
        listed = [there async for there in schedules.every(found.client)]
    if screen.json:
        screen.document([_as_json(there, spec=None) for there in listed])
        return 0
    screen.table(
        ("pipeline", "cron", "zone", "takes", "state", "next"),
        [
            (
                there.given.ref.pipeline,
                there.given.terms.cron,
                there.given.terms.time_zone,
                there.given.terms.when,
                "paused" if there.paused else "active",
                _local(there.next[0], there.given.terms) if there.next and not there.paused else "",
            )
            for there in listed
        ],
    )
    if not listed:
        screen.say("Nothing is scheduled here. Schedule a pipeline with: tandem schedule apply SPEC")
    return 0


async def show_command(wanted: str, screen: Screen) -> int:
    """What a schedule does, when it fires next, what it started last."""
    async with _target(wanted) as (_, there, spec):
        changed = await asyncio.to_thread(_spec_changes, there, spec)
        recent = await asyncio.to_thread(lambda: [(at, schedules.run_of(there, at)) for at in there.recent])
        standing = None if spec is None else "changed" if changed else "current"
    if screen.json:
        fired = [{"at": _iso(at), "run": run} for at, run in recent]
        screen.document({**_as_json(there, spec=standing), "recent": fired})
        return 0
    screen.result(f"{there.given.ref.pipeline}: {_said(there.given.terms)}")
    if changed:
        screen.result(f"  the spec has changed since it was applied ({', '.join(changed)}); apply it again to use that")
    for at, run in recent[-5:]:
        screen.result(f"  fired {_local(at, there.given.terms)}: {run or 'nothing to do'}")
    _say_next(there, screen)
    return 0


async def pause_command(wanted: str, reason: str, screen: Screen) -> int:
    async with _target(wanted) as (found, there, _):
        await schedules.handle_of(found.client, there).pause(note=reason)
        await _show_state(found, there, screen, f"The schedule of {there.given.ref.pipeline} is paused: {reason}.")
    return 0


async def unpause_command(wanted: str, screen: Screen) -> int:
    async with _target(wanted) as (found, there, _):
        await schedules.handle_of(found.client, there).unpause(note="unpaused")
        await _show_state(found, there, screen, f"The schedule of {there.given.ref.pipeline} goes on.")
    return 0


async def trigger_command(wanted: str, screen: Screen) -> int:
    """Fire now, with the spec that was applied. Refused where the spec is another one by now."""
    async with _target(wanted) as (found, there, spec):
        changed = await asyncio.to_thread(_spec_changes, there, spec)
        if changed:
            raise UsageError(
                f"The spec of {there.given.ref.pipeline!r} has changed since its schedule was applied: "
                f"{', '.join(changed)}.",
                hint=f"Apply it first: tandem schedule apply {wanted}",
            )
        await schedules.handle_of(found.client, there).trigger()
        await _show_state(found, there, screen, f"{there.given.ref.pipeline} is triggered. See: tandem runs list")
    _say_dev(Path(there.given.base), screen)
    return 0


async def delete_command(wanted: str, screen: Screen) -> int:
    """What runs goes on; nothing is started any more."""
    async with _target(wanted) as (found, there, _):
        await schedules.handle_of(found.client, there).delete()
    if screen.json:
        screen.document({"schedule": there.id, "deleted": True})
    else:
        screen.result(f"The schedule of {there.given.ref.pipeline} is deleted; a run that is at work goes on.")
    return 0


async def next_command(wanted: str, count: int, screen: Screen) -> int:
    """When it fires next, in its zone and in UTC."""
    async with _target(wanted) as (found, there, _):
        times = await schedules.next_times(found.client, there.id, count, dt.datetime.now(dt.UTC))
    terms = there.given.terms
    if screen.json:
        screen.document([{"at": _iso(when), "local": _local(when, terms)} for when in times])
        return 0
    for when in times:
        screen.result(f"{_local(when, terms)}  ({_iso(when)})")
    if there.paused:
        screen.say("It is paused: until it is unpaused, none of these fires.")
    return 0


async def _show_state(found: Connection, there: Found, screen: Screen, said: str) -> None:
    if screen.json:
        now = await schedules.find(found.client, there.id)
        screen.document(_as_json(now or there, spec=None))
    else:
        screen.result(said)


@asynccontextmanager
async def _target(wanted: str) -> AsyncIterator[tuple[Connection, Found, Spec | None]]:
    """The schedule of a spec's pipeline, or of a pipeline by name, and the spec as it is now. Raises UsageError."""
    spec, base = await asyncio.to_thread(_spec_of, wanted)
    async with connected(base) as found:
        there = None
        if spec is not None:
            store = await asyncio.to_thread(sink_of, spec, base)
            there = await schedules.find(found.client, ids.schedule_id(spec.name, store.uri))
        else:
            async for candidate in schedules.every(found.client):
                if wanted in (candidate.given.ref.pipeline, candidate.id):
                    there = candidate
        if there is None:
            name = spec.name if spec is not None else wanted
            raise UsageError(
                f"There is no schedule of {name!r} here.", hint="See: tandem schedule list; tandem schedule apply SPEC"
            )
        yield found, there, spec


def _spec_of(wanted: str) -> tuple[Spec | None, Path]:
    """The spec of a path and its folder; none for a name."""
    path = Path(wanted)
    named = path != DEFAULT_SPEC and not path.exists() and path.suffix not in (".yaml", ".yml")
    return (None, Path.cwd()) if named else read_spec(path)


def _spec_changes(there: Found, spec: Spec | None) -> list[str]:
    if spec is None:
        return []
    return schedules.spec_changes(schedules.store_of(there), there.given.spec, spec)


def _as_json(there: Found, *, spec: str | None) -> dict[str, Any]:
    """`spec`: whether the file is still what was applied; None where it was not looked at."""
    given = there.given
    return {
        "schedule": there.id,
        "pipeline": given.ref.pipeline,
        "sink": given.ref.sink,
        **given.terms.model_dump(),
        "paused": there.paused,
        "note": there.note,
        "spec": spec,
        "next": [_iso(when) for when in there.next],
    }


def _iso(when: dt.datetime) -> str:
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
