"""The activity of a schedule's firing."""

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
    """What a firing asks for."""

    jobs: Jobs

    def all(self) -> list[Callable[..., Any]]:
        return [self.ask]

    @activity.defn
    @activity_boundary
    async def ask(self, request: FiringRequest) -> FiringDecision:
        """The request of a schedule's firing, or that nothing is to be done."""
        async with heartbeating() as beat:
            return await asyncio.to_thread(
                request_of_firing, self.jobs.store(request.ref), request, self.jobs.services, beat.note
            )
