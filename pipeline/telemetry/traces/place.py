"""The place of a span in the trace of its run: identifiers that every process derives alike."""

import hashlib
from dataclasses import dataclass
from typing import Any

from schemas.messages.base import RunRef


@dataclass(frozen=True, slots=True)
class Place:
    """The identifiers of a trace (128 bits) and of one of its spans (64 bits)."""

    trace: int
    span: int

    @property
    def trace_hex(self) -> str:
        return f"{self.trace:032x}"

    def below(self, *names: str) -> "Place":
        """Return the place of a span that these names tell from the others below this one."""
        return Place(self.trace, _number(8, f"{self.span:016x}", *names))


def of_run(ref: RunRef) -> Place:
    """Return the place of a run's span, the root of its trace."""
    return Place(_number(16, ref.sink, ref.pipeline, ref.run), _number(8, ref.sink, ref.pipeline, ref.run))


def of_partition(ref: RunRef, partition: str) -> Place:
    return of_run(ref).below("partition", partition)


def of_batch(ref: RunRef, partition: str, batch: int) -> Place:
    return of_partition(ref, partition).below("batch", str(batch))


def of_request(request: Any) -> Place | None:
    """Return the place of the work that an activity's request is about: a batch, a partition, a run; None if it names
    no run."""
    ref = getattr(request, "ref", None)
    if not isinstance(ref, RunRef):
        return None
    partition, batch = getattr(request, "partition", None), getattr(request, "batch", None)
    if partition is None:
        return of_run(ref)
    return of_partition(ref, partition) if batch is None else of_batch(ref, partition, batch)


def _number(size: int, *parts: str) -> int:
    """Return a number of `size` bytes, never 0, which OpenTelemetry takes for none."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=size).digest()) or 1
