"""Schedules: Temporal's own, one for each pipeline of a sink. Applied like a plan: what differs is told and changed."""

import asyncio
import datetime as dt
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionResult,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from pipeline.client.connection import Connection
from pipeline.runs.requests import load_request
from pipeline.stores import Store, open_store
from pipeline.workflows.schedule import ScheduledWorkflow
from schemas import ids
from schemas.errors import ObjectMissing, UsageError
from schemas.messages.base import RunRef
from schemas.messages.schedule import ScheduledInput, ScheduleTerms
from schemas.spec.durations import format_duration, parse_duration
from schemas.spec.sections import Schedule as Wanted
from schemas.spec.sections import Spec

EVERY_MINUTE = "* * * * *"  # how often files are looked for, unless it is said
_FARTHEST = dt.timedelta(days=366 * 5)
_POLICIES = tuple(policy.name.lower() for policy in ScheduleOverlapPolicy)


@dataclass(frozen=True)
class Change:
    """One difference between what is there and what is asked for."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Applied:
    """`created`, or changed where there are `changes`."""

    id: str
    created: bool
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Found:
    """A schedule that is there. `given` is what it starts runs with."""

    id: str
    given: ScheduledInput
    paused: bool
    note: str
    next: tuple[dt.datetime, ...]
    recent: tuple[dt.datetime, ...] = field(default=())  # scheduled times that fired last


# What is wanted ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScheduleFlags:
    """What the command line says of a schedule; None and the defaults: what the spec says."""

    cron: str | None = None
    zone: str | None = None
    overlap: str | None = None
    catchup: str | None = None
    jitter: str | None = None
    pause_on_failure: bool = False
    when: Literal["due", "new-files"] = "due"


def terms_of(spec: Spec, flags: ScheduleFlags) -> ScheduleTerms:
    """The spec's `schedule:`, with what the command line says instead. Raises UsageError."""
    said = spec.schedule
    given = (
        flags.cron or (said.cron if said is not None else None) or (EVERY_MINUTE if flags.when == "new-files" else None)
    )
    if given is None:
        raise UsageError(
            f"The spec of {spec.name!r} has no schedule.", hint='Add schedule: {cron: "0 3 * * *"}, or say --cron.'
        )
    usual = (said or Wanted(cron=given)).model_copy(update={"cron": given})
    return ScheduleTerms(
        cron=" ".join(given.split()),
        time_zone=_zone(flags.zone) or usual.zone,
        overlap_policy=_policy(flags.overlap) or usual.overlap,
        catchup_window=_duration("--catchup-window", flags.catchup) or format_duration(usual.catchup),
        jitter=_duration("--jitter", flags.jitter) or format_duration(usual.jitter),
        lookback=format_duration(usual.lookback),
        pause_on_failure=flags.pause_on_failure,
        when=flags.when,
    )


def _zone(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        return Wanted(cron=EVERY_MINUTE, zone=given).zone
    except ValidationError:
        raise UsageError(
            f"--time-zone {given}: not an IANA time zone.", hint="Write one like Europe/Paris or UTC."
        ) from None


def _policy(given: str | None) -> str | None:
    """Temporal's names, as its command line (`BufferOne`) or its API (`buffer_one`) writes them."""
    if given is None:
        return None
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", given).lower().replace("-", "_")
    if name not in _POLICIES:
        raise UsageError(f"--overlap-policy {given}: not one of {', '.join(_POLICIES)}.")
    return name


def _duration(flag: str, given: str | None) -> str | None:
    if given is None:
        return None
    try:
        return format_duration(parse_duration(given))
    except ValueError as exc:
        raise UsageError(f"{flag} {given}: {exc}.") from None


def save_spec(store: Store, spec: Spec) -> str:
    """Freeze the spec; returns its key."""
    data = spec.model_dump_json().encode()
    key = ids.scheduled_spec(hashlib.sha256(data).hexdigest())
    store.put_absent(key, data)
    return key


def spec_changes(store: Store, key: str, spec: Spec) -> list[str]:
    """The sections in which a spec differs from the one that a schedule was applied with."""
    now = orjson.loads(spec.model_dump_json())
    try:
        before = orjson.loads(store.get(key))
    except ObjectMissing:
        return ["everything"]
    return [name for name in now if now[name] != before.get(name)]


# What is there -----------------------------------------------------------------------------------------------------


async def find(client: Client, schedule: str) -> Found | None:
    try:
        return await _found(client, schedule, await client.get_schedule_handle(schedule).describe())
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise


async def every(client: Client) -> AsyncIterator[Found]:
    """All schedules of ours, in order of name."""
    names = [found.id async for found in await client.list_schedules()]
    for name in sorted(name for name in names if name.startswith("tandem/") and name.endswith("/schedule")):
        found = await find(client, name)
        if found is not None:
            yield found


async def _found(client: Client, schedule: str, described: ScheduleDescription) -> Found:
    action = described.schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    (given,) = await client.data_converter.decode(list(action.args), [ScheduledInput])
    return Found(
        id=schedule,
        given=given,
        paused=described.schedule.state.paused,
        note=described.schedule.state.note or "",
        next=tuple(described.info.next_action_times),
        recent=tuple(_nominal(done) for done in described.info.recent_actions),
    )


def _nominal(done: ScheduleActionResult) -> dt.datetime:
    """The time that was scheduled, without the jitter: Temporal appends it to the workflow's id."""
    started = re.search(r"-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\Z", getattr(done.action, "workflow_id", ""))
    return dt.datetime.fromisoformat(started[1]) if started else done.scheduled_at


async def next_times(client: Client, schedule: str, count: int, now: dt.datetime) -> list[dt.datetime]:
    """The next times at which it fires, as Temporal reckons them: with its zone, its clock changes and its jitter."""
    found: list[dt.datetime] = []
    start, width = now, dt.timedelta(hours=1)
    while len(found) < count and start < now + _FARTHEST:
        asked = ListScheduleMatchingTimesRequest(
            namespace=client.namespace, schedule_id=schedule, start_time=_stamp(start), end_time=_stamp(start + width)
        )
        answer = await client.workflow_service.list_schedule_matching_times(asked)
        for stamp in answer.start_time:
            when = stamp.ToDatetime(tzinfo=dt.UTC)
            if when not in found[-50:]:
                found.append(when)
        start, width = start + width, min(2 * width, dt.timedelta(days=90))
    return found[:count]


def _stamp(when: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp


# Applying ----------------------------------------------------------------------------------------------------------


async def apply(engine: Connection, store: Store, spec: Spec, base: str, terms: ScheduleTerms) -> Applied:
    """Create the schedule, or change what differs. `base` is the spec's folder. Raises UsageError for what Temporal
    refuses."""
    client, schedule = engine.client, ids.schedule_id(spec.name, store.uri)
    wanted = ScheduledInput(
        ref=RunRef(pipeline=spec.name, run="", sink=store.uri),
        spec=await asyncio.to_thread(save_spec, store, spec),
        base=base,
        task_queue=engine.queue(spec.name),
        terms=terms,
        attributes=engine.search_attributes,
    )
    there = await find(client, schedule)
    if there is not None and there.given == wanted:
        return Applied(schedule, created=False)
    made = _schedule(wanted)
    try:
        if there is None:
            await client.create_schedule(schedule, made)
            return Applied(schedule, created=True)
        await client.get_schedule_handle(schedule).update(lambda given: _changed(made, given))
    except ScheduleAlreadyRunningError:
        return await apply(engine, store, spec, base, terms)  # somebody was faster
    except RPCError as exc:
        if exc.status == RPCStatusCode.INVALID_ARGUMENT:
            raise UsageError(_refused(terms, exc)) from None
        raise
    return Applied(schedule, created=False, changes=tuple(_changes(store, there.given, wanted, spec)))


def _schedule(wanted: ScheduledInput) -> Schedule:
    terms, ref = wanted.terms, wanted.ref
    return Schedule(
        action=ScheduleActionStartWorkflow(
            ScheduledWorkflow.run,
            wanted,
            id=ids.scheduled_workflow_id(ref.pipeline, ref.sink),
            task_queue=wanted.task_queue,
            static_summary=f"{ref.pipeline}: scheduled",
        ),
        spec=ScheduleSpec(
            cron_expressions=[terms.cron], time_zone_name=terms.time_zone, jitter=parse_duration(terms.jitter)
        ),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy[terms.overlap_policy.upper()],
            catchup_window=parse_duration(terms.catchup_window),
            pause_on_failure=terms.pause_on_failure,
        ),
    )


def _changed(made: Schedule, given: ScheduleUpdateInput) -> ScheduleUpdate:
    """A schedule that is paused stays paused, with its note."""
    made.state = given.description.schedule.state
    return ScheduleUpdate(made)


def _refused(terms: ScheduleTerms, exc: RPCError) -> str:
    said = exc.message.removeprefix("Invalid schedule spec: ").rstrip(".")
    return f"schedule.cron = {terms.cron!r} ({terms.time_zone}): {said}."


def _changes(store: Store, before: ScheduledInput, after: ScheduledInput, spec: Spec) -> list[Change]:
    old, new = before.terms.model_dump(), after.terms.model_dump()
    found = [Change(name, old[name], new[name]) for name in new if old[name] != new[name]]
    if before.spec != after.spec:
        found += [Change(f"spec.{name}", "as it was", "changed") for name in spec_changes(store, before.spec, spec)]
    found += [
        Change(name, getattr(before, name), getattr(after, name))
        for name in ("base", "task_queue", "attributes")
        if getattr(before, name) != getattr(after, name)
    ]
    return found


def run_of(found: Found, at: dt.datetime) -> str | None:
    """The run of a firing; None where there was nothing to do."""
    name = ids.scheduled_run(at, "new-files" if found.given.terms.when == "new-files" else "scheduled")
    return name if load_request(store_of(found), name) is not None else None


def handle_of(client: Client, found: Found) -> ScheduleHandle:
    return client.get_schedule_handle(found.id)


def store_of(found: Found) -> Store:
    return open_store(found.given.ref.sink)
