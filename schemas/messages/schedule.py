"""Schedules: the workflow that a firing starts, and its messages."""

import datetime as dt
from typing import Literal

from schemas.messages.base import Message, RunRef, RunState


class ScheduleTerms(Message):
    """The settings of a schedule, as people read and compare them. Durations as `6h`. `when`: `due` runs the partitions
    that have ended, `new-files` what changed, if the source's listing has changed."""

    cron: str
    time_zone: str = "UTC"
    overlap_policy: str = "skip"
    catchup_window: str = "6h"
    jitter: str = "0s"
    lookback: str = "7d"
    pause_on_failure: bool = False
    when: Literal["due", "new-files"] = "due"


class ScheduledInput(Message):
    """`spec` is the key of the frozen spec, `ref.run` is empty. `attributes`: the server has our search attributes."""

    ref: RunRef
    spec: str
    base: str
    task_queue: str
    terms: ScheduleTerms
    attributes: bool = False


class FiringRequest(Message):
    """Request the run of a firing at `at`. `since`: the firing before; `seen`: the listing that needs no run."""

    ref: RunRef
    spec: str
    base: str
    at: dt.datetime
    since: dt.datetime | None
    lookback: str
    when: Literal["due", "new-files"]
    seen: str = ""


class FiringDecision(Message):
    """The name of the run; empty if there is nothing to do, with the reason in `note`, which also names files that are
    left to a later firing. `listing` is the fingerprint of the source's other files, if it was read."""

    run: str = ""
    listing: str = ""
    note: str = ""


class ScheduledResult(Message):
    """The result of a firing, which Temporal passes to the next. `run` is empty if there was nothing to do; `state` and
    `tried_at` are then those of the latest firing with a run."""

    at: dt.datetime
    run: str = ""
    state: RunState = "completed"
    listing: str = ""
    tried_at: dt.datetime | None = None
    note: str = ""
