"""What every message is made of: the base class, the run that it belongs to, states and outcomes.

Payloads are capped at 64 KiB; a list that may grow goes by reference (an object key).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

MAX_PAYLOAD_BYTES = 64 * 1024
RunState = Literal["completed", "failed", "paused", "cancelled", "running"]
Outcome = Literal["published", "unchanged", "failed", "cancelled", "not_run"]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RunRef(Message):
    """Which run, and where its objects are. `sink` is a URI or an absolute folder."""

    pipeline: str
    run: str
    sink: str


class Concurrency(Message):
    """How many children and batches may be in flight; changed on a live run by `set_limits`."""

    partitions: int = 8
    batches: int = 2
