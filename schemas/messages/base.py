"""The parts of every message: base class, reference to the run, states and outcomes.

Payloads are capped at 64 KiB; a list that may grow goes by reference (an object key).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

MAX_PAYLOAD_BYTES = 64 * 1024
RunState = Literal["completed", "failed", "paused", "cancelled", "running"]
# `waiting` is no end: the partition is begun again once its provider jobs have ended.
Outcome = Literal["published", "unchanged", "failed", "cancelled", "not_run", "waiting"]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RunRef(Message):
    """A run and the place of its objects. `sink` is a URI or an absolute folder."""

    pipeline: str
    run: str
    sink: str


class Concurrency(Message):
    """The number of children and batches that may be in flight; changed on a live run by `set_limits`."""

    partitions: int = 8
    batches: int = 2
