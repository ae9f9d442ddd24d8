"""Schedules: the workflow that a firing starts, and what it asks for."""

import datetime as dt
from typing import Literal

from schemas.messages.base import Message, RunRef, RunState


class ScheduleTerms(Message):
    """When a schedule fires, and what a firing takes: as people read and compare them. Durations as `6h`. `when`: `due`
    takes the partitions that are over, `new-files` what changed, where the source's listing did."""

    cron: str
    time_zone: str = "UTC"
    overlap_policy: str = "skip"
    catchup_window: str = "6h"
    jitter: str = "0s"
    lookback: str = "7d"
    pause_on_failure: bool = False
    when: Literal["due", "new-files"] = "due"


class ScheduledInput(Message):
    """`spec` is the key of the frozen spec, `ref.run` empty. `attributes`: the server knows our search attributes."""

    ref: RunRef
    spec: str
    base: str
    task_queue: str
    terms: ScheduleTerms
    attributes: bool = False


class FiringRequest(Message):
    """Ask for the run of a firing at `at`. `since`: the firing before that; `seen`: the listing that needs no run."""

    ref: RunRef
    spec: str
    base: str
    at: dt.datetime
    since: dt.datetime | None
    lookback: str
    when: Literal["due", "new-files"]
    seen: str = ""


class FiringDecision(Message):
    """The name of the run; empty where nothing is to be done, with the reason. `listing` is the source's fingerprint,
    where it was looked at."""

    run: str = ""
    listing: str = ""
    note: str = ""


class ScheduledResult(Message):
    """What became of a firing: Temporal hands it to the next. `run` is empty where there was nothing to do; `state` and
    `tried_at` are then those of the latest that had."""

    at: dt.datetime
    run: str = ""
    state: RunState = "completed"
    listing: str = ""
    tried_at: dt.datetime | None = None
    note: str = ""
