"""The activity of a firing of a schedule."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.jobs import Jobs
from pipeline.planning.scheduled_request import request_of_firing
from schemas.messages.schedule import FiringDecision, FiringRequest


@dataclass
class ScheduleActivities:
    """The activity of a schedule's firing."""

    jobs: Jobs

    def all(self) -> list[Callable[..., Any]]:
        return [self.ask]

    @activity.defn
    @activity_boundary
    async def ask(self, request: FiringRequest) -> FiringDecision:
        """Return the request of a schedule's firing, or that there is nothing to do."""
        async with heartbeating() as progress:
            return await asyncio.to_thread(
                request_of_firing, self.jobs.store(request.ref), request, self.jobs.services, progress.note
            )
