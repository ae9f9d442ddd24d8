"""The activity of a schedule's firing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from pipeline.activities.boundary import beating, translated
from pipeline.activities.jobs import Jobs
from pipeline.planning.scheduled_request import ask
from schemas.messages.schedule import Asked, AskRequest


@dataclass
class ScheduleActivities:
    """What a firing asks for."""

    jobs: Jobs

    def all(self) -> list[Callable[..., Any]]:
        return [self.ask]

    @activity.defn
    @translated
    async def ask(self, request: AskRequest) -> Asked:
        """The request of a schedule's firing, or that nothing is to be done."""
        async with beating() as beat:
            return await asyncio.to_thread(ask, self.jobs.store(request.ref), request, self.jobs.services, beat.note)
