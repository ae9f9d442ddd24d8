"""Schedules: Temporal's own, one for each pipeline of a sink. Applying one reports and changes the differences."""

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
    WorkflowExecutionStatus,
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
from schemas.spec.sections import Schedule as ScheduleSection
from schemas.spec.sections import Spec

EVERY_MINUTE = "* * * * *"  # default for looking for new files
_FARTHEST = dt.timedelta(days=366 * 5)
_POLICIES = tuple(policy.name.lower() for policy in ScheduleOverlapPolicy)


@dataclass(frozen=True)
class Change:
    """One difference between the existing and the requested schedule."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Applied:
    """The outcome of `apply`: `created`, or changed if there are `changes`."""

    id: str
    created: bool
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class ExistingSchedule:
    """An existing schedule. `inputs` is the input of the workflows that it starts."""

    id: str
    inputs: ScheduledInput
    paused: bool
    note: str
    next: tuple[dt.datetime, ...]
    recent: tuple[dt.datetime, ...] = field(default=())  # the last scheduled times that fired
    recent_workflows: tuple[str, ...] = field(default=())  # the workflows of these


# Requested schedules ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScheduleFlags:
    """The flags of a schedule; None and the defaults leave a value to the spec."""

    cron: str | None = None
    zone: str | None = None
    overlap: str | None = None
    catchup: str | None = None
    jitter: str | None = None
    pause_on_failure: bool = False
    when: Literal["due", "new-files"] = "due"


def terms_of(spec: Spec, flags: ScheduleFlags) -> ScheduleTerms:
    """Return the spec's `schedule:` with the values of the command line over it. Raises UsageError."""
    section = spec.schedule
    cron = (
        flags.cron
        or (section.cron if section is not None else None)
        or (EVERY_MINUTE if flags.when == "new-files" else None)
    )
    if cron is None:
        raise UsageError(
            f"The spec of {spec.name!r} has no schedule.", hint='Add schedule: {cron: "0 3 * * *"}, or pass --cron.'
        )
    defaults = (section or ScheduleSection(cron=cron)).model_copy(update={"cron": cron})
    return ScheduleTerms(
        cron=" ".join(cron.split()),
        time_zone=_zone(flags.zone) or defaults.zone,
        overlap_policy=_policy(flags.overlap) or defaults.overlap,
        catchup_window=_duration("--catchup-window", flags.catchup) or format_duration(defaults.catchup),
        jitter=_duration("--jitter", flags.jitter) or format_duration(defaults.jitter),
        lookback=format_duration(defaults.lookback),
        pause_on_failure=flags.pause_on_failure,
        when=flags.when,
    )


def _zone(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return ScheduleSection(cron=EVERY_MINUTE, zone=value).zone
    except ValidationError:
        raise UsageError(
            f"--time-zone {value}: not an IANA time zone.", hint="Write one like Europe/Paris or UTC."
        ) from None


def _policy(value: str | None) -> str | None:
    """Return a policy by Temporal's name, as in its command line (`BufferOne`) or its API (`buffer_one`)."""
    if value is None:
        return None
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value).lower().replace("-", "_")
    if name not in _POLICIES:
        raise UsageError(f"--overlap-policy {value}: not one of {', '.join(_POLICIES)}.")
    return name


def _duration(flag: str, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return format_duration(parse_duration(value))
    except ValueError as exc:
        raise UsageError(f"{flag} {value}: {exc}.") from None


def save_spec(store: Store, spec: Spec) -> str:
    """Store a frozen copy of the spec. Return its key."""
    data = spec.model_dump_json().encode()
    key = ids.scheduled_spec(hashlib.sha256(data).hexdigest())
    store.put_absent(key, data)
    return key


def spec_changes(store: Store, key: str, spec: Spec) -> list[str]:
    """Return the sections in which a spec differs from the applied one."""
    now = orjson.loads(spec.model_dump_json())
    try:
        before = orjson.loads(store.get(key))
    except ObjectMissing:
        return ["everything"]
    return [name for name in now if now[name] != before.get(name)]


# Existing schedules --------------------------------------------------------------------------------------------------


async def find(client: Client, schedule: str) -> ExistingSchedule | None:
    try:
        return await _existing(client, schedule, await client.get_schedule_handle(schedule).describe())
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise


async def list_schedules(client: Client) -> AsyncIterator[ExistingSchedule]:
    """Yield our schedules, in order of name."""
    names = [schedule.id async for schedule in await client.list_schedules()]
    for name in sorted(name for name in names if name.startswith("tandem/") and name.endswith("/schedule")):
        schedule = await find(client, name)
        if schedule is not None:
            yield schedule


async def _existing(client: Client, schedule: str, described: ScheduleDescription) -> ExistingSchedule:
    action = described.schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    (inputs,) = await client.data_converter.decode(list(action.args), [ScheduledInput])
    return ExistingSchedule(
        id=schedule,
        inputs=inputs,
        paused=described.schedule.state.paused,
        note=described.schedule.state.note or "",
        next=tuple(described.info.next_action_times),
        recent=tuple(_nominal(action) for action in described.info.recent_actions),
        recent_workflows=tuple(getattr(result.action, "workflow_id", "") for result in described.info.recent_actions),
    )


async def note_of(client: Client, workflow: str) -> str:
    """Return the note of a firing that has ended: why it made no run, and the files that it left to a later one."""
    handle = client.get_workflow_handle_for(ScheduledWorkflow.run, workflow)
    try:
        if (await handle.describe()).status != WorkflowExecutionStatus.COMPLETED:
            return ""
        return (await handle.result()).note
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:  # it is older than the server keeps workflows
            return ""
        raise


def _nominal(result: ScheduleActionResult) -> dt.datetime:
    """Return the scheduled time without the jitter: Temporal appends it to the workflow's id."""
    started = re.search(r"-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\Z", getattr(result.action, "workflow_id", ""))
    return dt.datetime.fromisoformat(started[1]) if started else result.scheduled_at


async def next_times(client: Client, schedule: str, count: int, now: dt.datetime) -> list[dt.datetime]:
    """Return the next times of a schedule, computed by Temporal with its zone, clock changes and jitter."""
    times: list[dt.datetime] = []
    start, width = now, dt.timedelta(hours=1)
    while len(times) < count and start < now + _FARTHEST:
        request = ListScheduleMatchingTimesRequest(
            namespace=client.namespace, schedule_id=schedule, start_time=_stamp(start), end_time=_stamp(start + width)
        )
        answer = await client.workflow_service.list_schedule_matching_times(request)
        for stamp in answer.start_time:
            time = stamp.ToDatetime(tzinfo=dt.UTC)
            if time not in times[-50:]:
                times.append(time)
        start, width = start + width, min(2 * width, dt.timedelta(days=90))
    return times[:count]


def _stamp(time: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


# Applying ----------------------------------------------------------------------------------------------------------


async def apply(connection: Connection, store: Store, spec: Spec, base: str, terms: ScheduleTerms) -> Applied:
    """Create the schedule or update it. `base` is the spec's folder. Raises UsageError for values that Temporal
    refuses."""
    client, schedule = connection.client, ids.schedule_id(spec.name, store.uri)
    inputs = ScheduledInput(
        ref=RunRef(pipeline=spec.name, run="", sink=store.uri),
        spec=await asyncio.to_thread(save_spec, store, spec),
        base=base,
        task_queue=connection.queue(spec.name),
        terms=terms,
        attributes=connection.search_attributes,
    )
    existing = await find(client, schedule)
    if existing is not None and existing.inputs == inputs:
        return Applied(schedule, created=False)
    new = _schedule(inputs)
    try:
        if existing is None:
            await client.create_schedule(schedule, new)
            return Applied(schedule, created=True)
        await client.get_schedule_handle(schedule).update(lambda update: _keep_state(new, update))
    except ScheduleAlreadyRunningError:
        return await apply(connection, store, spec, base, terms)  # another process was faster
    except RPCError as exc:
        if exc.status == RPCStatusCode.INVALID_ARGUMENT:
            raise UsageError(_refused(terms, exc)) from None
        raise
    return Applied(schedule, created=False, changes=tuple(_changes(store, existing.inputs, inputs, spec)))


def _schedule(inputs: ScheduledInput) -> Schedule:
    terms, ref = inputs.terms, inputs.ref
    return Schedule(
        action=ScheduleActionStartWorkflow(
            ScheduledWorkflow.run,
            inputs,
            id=ids.scheduled_workflow_id(ref.pipeline, ref.sink),
            task_queue=inputs.task_queue,
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


def _keep_state(new: Schedule, update: ScheduleUpdateInput) -> ScheduleUpdate:
    """Return an update that keeps the state: a paused schedule stays paused, with its note."""
    new.state = update.description.schedule.state
    return ScheduleUpdate(new)


def _refused(terms: ScheduleTerms, exc: RPCError) -> str:
    reason = exc.message.removeprefix("Invalid schedule spec: ").rstrip(".")
    return f"schedule.cron = {terms.cron!r} ({terms.time_zone}): {reason}."


def _changes(store: Store, before: ScheduledInput, after: ScheduledInput, spec: Spec) -> list[Change]:
    old, new = before.terms.model_dump(), after.terms.model_dump()
    changes = [Change(name, old[name], new[name]) for name in new if old[name] != new[name]]
    if before.spec != after.spec:
        changes += [Change(f"spec.{name}", "as it was", "changed") for name in spec_changes(store, before.spec, spec)]
    changes += [
        Change(name, getattr(before, name), getattr(after, name))
        for name in ("base", "task_queue", "attributes")
        if getattr(before, name) != getattr(after, name)
    ]
    return changes


def run_of(schedule: ExistingSchedule, time: dt.datetime) -> str | None:
    """Return the run of a firing; None if there was nothing to do."""
    name = ids.scheduled_run(time, "new-files" if schedule.inputs.terms.when == "new-files" else "scheduled")
    return name if load_request(store_of(schedule), name) is not None else None


def handle_of(client: Client, schedule: ExistingSchedule) -> ScheduleHandle:
    return client.get_schedule_handle(schedule.id)


def store_of(schedule: ExistingSchedule) -> Store:
    return open_store(schedule.inputs.ref.sink)
