"""The activities of a worker, with their shared state."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.activities.batch import BatchActivities, Supervision
from pipeline.activities.jobs import Jobs
from pipeline.activities.opening import OpeningActivities
from pipeline.activities.partition import PartitionActivities
from pipeline.activities.provider_jobs import JobActivities
from pipeline.activities.run import RunActivities
from pipeline.activities.schedule import ScheduleActivities
from pipeline.journal.spool import Spools
from pipeline.limits.run_budget import RunBudgets
from pipeline.settings import Settings, current


@dataclass
class Activities:
    """The activities of one worker. `drain` set: batches are handed back."""

    jobs: Jobs = field(default_factory=Jobs)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    settings: Settings = field(default_factory=current)
    supervision: Supervision | None = None

    def __post_init__(self) -> None:
        self.spools = Spools(self.settings.spool_folder)
        self.budgets = RunBudgets(self.settings.spend_folder)
        self.run = RunActivities(self.jobs, self.budgets)
        self.partition = PartitionActivities(self.jobs, self.spools)
        self.batch = BatchActivities(self.jobs, self.budgets, self.drain, self.spools, supervision=self.supervision)
        self.opening = OpeningActivities(self.jobs, self.partition, self.batch)
        self.schedule = ScheduleActivities(self.jobs)
        self.provider_jobs = JobActivities(self.jobs)

    def all(self) -> list[Callable[..., Any]]:
        rooms = self.run, self.opening, self.partition, self.batch, self.schedule, self.provider_jobs
        return [activity for room in rooms for activity in room.all()]
