"""Fire, pause and unpause the schedule of a pipeline."""

import asyncio

from pipeline.client import schedules
from pipeline.client.connection import Connection
from pipeline.client.schedules import ExistingSchedule
from schemas.errors import UsageError
from schemas.spec.sections import Spec


def spec_changes(schedule: ExistingSchedule, spec: Spec | None) -> list[str]:
    """Return the sections in which a spec differs from the applied one; none if there is no spec to compare."""
    if spec is None:
        return []
    return schedules.spec_changes(schedules.store_of(schedule), schedule.inputs.spec, spec)


async def trigger(connection: Connection, schedule: ExistingSchedule, spec: Spec | None, target: str) -> str:
    """Fire now, with the applied spec. Return a sentence. `target` is how a command names the schedule. Raises
    UsageError if the spec has changed since."""
    changed = await asyncio.to_thread(spec_changes, schedule, spec)
    if changed:
        raise UsageError(
            f"The spec of {schedule.inputs.ref.pipeline!r} has changed since its schedule was applied: "
            f"{', '.join(changed)}.",
            hint=f"Apply it first: tandem schedule apply {target}",
        )
    await schedules.handle_of(connection.client, schedule).trigger()
    return f"{schedule.inputs.ref.pipeline} is triggered. See: tandem runs list"


async def pause(connection: Connection, schedule: ExistingSchedule, reason: str) -> str:
    """Pause a schedule. Return a sentence."""
    await schedules.handle_of(connection.client, schedule).pause(note=reason)
    return f"The schedule of {schedule.inputs.ref.pipeline} is paused: {reason}."


async def unpause(connection: Connection, schedule: ExistingSchedule) -> str:
    """Let a schedule go on. Return a sentence."""
    await schedules.handle_of(connection.client, schedule).unpause(note="unpaused")
    return f"The schedule of {schedule.inputs.ref.pipeline} goes on."
