"""The errors of Tandem, by what the reader can do about them.

    TandemError                     a fact, a hint (the next step), a code, an exit code
    ├── UsageError            (2)   the command, the spec or its data cannot be used as they are
    │   ├── SpecError               the spec file is wrong
    │   ├── SourceError             the input is absent, unreadable or lacks a column
    │   ├── SinkError               the sink cannot hold the output
    │   ├── PlanOutdated            `--plan`: input or output has changed since it was made
    │   └── NameTaken               a run's name, or its partitions, belong to another request
    ├── ConnectionFailed      (4)   Temporal, a store or a provider cannot be reached
    ├── PartitionError        (1)   this partition fails, its siblings do not
    │   ├── InputChanged            the source changed between plan and read
    │   ├── DuplicateKeys           two rows of a partition share a key
    │   ├── SchemaChanged           the output would break the dataset's declared schema
    │   ├── ChecksFailed            a blocking check failed before publishing
    │   ├── CountsMismatch          rows in and rows accounted for differ: a bug of Tandem; nothing is published
    │   ├── CommitConflict          another writer published something else
    │   ├── Cancelled               a tombstone won: the run was cancelled
    │   └── CodeMismatch            this worker has other code than the plan: another worker must run it
    ├── LimitReached          (3)   stopped on purpose
    │   ├── RejectRateExceeded
    │   ├── BudgetReached
    │   ├── CallNeeded
    │   ├── TooManyFailures
    │   ├── CanaryFailed
    │   └── FatalModelError         no key, no access, no such model, no credit: every further call would fail
    ├── ModelError                  one call failed …
    │   ├── TransientModelError     … and may succeed later (never an attempt, always a wait)
    │   │   └── NoAnswer            a successful status without an answer
    │   └── RowError                … and would fail again for this row: the row is rejected
    ├── StoreError            (4)   an object could not be read or written
    │   ├── StoreRefused            … and will not be until credentials, bucket, region or disk are fixed
    │   │   ├── NoRoom              the disk, or the quota, is full
    │   │   └── Damaged             an object of Tandem is empty, truncated or changed
    │   ├── ObjectExists            put-if-absent found an object
    │   └── ObjectMissing           get found none
    └── Bug                  (70)   an exception that is none of these

A class says if a retry can help (`retryable`) and if the error ends the run at once (`stops_run`);
`pipeline.activities.boundary` translates the first for Temporal. An error that has crossed Temporal keeps only its
class name: `by_code` finds the class again, so that no code compares names."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.manifest import BrokenCheck, Manifest


class TandemError(Exception):
    """A fact (`message`) and the next step (`hint`); messages never hold row text or secrets."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    stops_run: ClassVar[bool] = False
    repeats: ClassVar[bool] = False  # the same run fails again the same, until something is changed

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """The stable name that scripts match on: the class name."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(TandemError):
    exit_code = 2


class SpecError(UsageError):
    """The spec is wrong; the message names file, line, field, value and the allowed values. `places`: the location in
    the spec of each sentence of the message, from which `in_file` finds the line."""

    def __init__(
        self, message: str, *, hint: str = "", places: "Sequence[tuple[tuple[str | int, ...], str]]" = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.places = tuple(places)


class SourceError(UsageError):
    """The input is absent, empty, unreadable, or lacks a column that the spec names."""


class SinkError(UsageError):
    """The sink belongs to another pipeline, ignores conditional writes, or cannot hold the output."""


class NameTaken(UsageError):
    """A run of this name has another spec or selection, or another run holds the partitions."""


class PlanOutdated(UsageError):
    """A saved plan differs from what would be done now; the message names the difference."""


class ConnectionFailed(TandemError):
    exit_code = 4
    retryable = True


class PartitionError(TandemError):
    """One partition cannot be published; the others go on."""


class InputChanged(PartitionError):
    """A source object is not the planned one; a new plan will use the new object."""


class DuplicateKeys(PartitionError):
    """Rows of one partition share a key that the spec declares unique."""

    repeats = True


class SchemaChanged(PartitionError):
    """The output's schema is not an additive change of the dataset's."""

    repeats = True
    exit_code = 2


class ChecksFailed(PartitionError):
    """A check of severity `block` found rows that break it. `checks`: all broken checks, of either severity."""

    repeats = True

    def __init__(self, message: str, *, checks: "Sequence[BrokenCheck]" = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.checks = tuple(checks)


class CountsMismatch(PartitionError):
    """The rows in are not ok + rejected + filtered + pending. Never published."""

    repeats = True


class CommitConflict(PartitionError):
    """Two commits in a row lost to other content; the message names the winner."""

    def __init__(self, message: str, *, winner: "Manifest | None" = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.winner = winner


class PartitionHeld(PartitionError):
    """Another run waits for provider jobs with calls of the partition; it is that run's until they are over."""


class Cancelled(PartitionError):
    """A tombstone holds the generation: the run was cancelled before this commit."""


class CodeMismatch(PartitionError):
    """The code of this worker is not the planned code; a worker that has it must run the batch."""


class LimitReached(TandemError):
    exit_code = 3


class RejectRateExceeded(LimitReached):
    """More rows of a partition were rejected than `limits.max_reject_rate` allows."""

    repeats = True


class BudgetReached(LimitReached):
    """The next call does not fit in a budget. `needed`: its highest cost, in USD / 10^9 and in tokens."""

    stops_run = True

    def __init__(self, message: str, *, hint: str = "", needed: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class CallNeeded(LimitReached):
    """A run that makes no calls needs one that is not in the journal."""

    stops_run = True


class TooManyFailures(LimitReached):
    """The number of failed partitions reached `--max-failures`; the rest was not begun."""


class CanaryFailed(LimitReached):
    """The sample that went first broke a check or the reject rate; the rest was not begun."""


class FatalModelError(LimitReached):
    """Every further call would fail the same way; the message names the setting to fix. `quota`: only this account's
    quota or balance is used up. `billed`: the provider may have charged for the call."""

    stops_run = True
    quota = False
    billed = False


class ModelError(TandemError):
    """One model call failed. `billed`: the provider may have charged for it."""

    billed: bool = False


class TransientModelError(ModelError):
    """Rate limit, overload, timeout, connection: wait at least `retry_after` seconds, then call again. `congestion`
    is the reason to call more slowly: `rate` (too many per minute), `overload` (too many at once), or empty."""

    retryable = True

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None, congestion: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.congestion = congestion
        self.no_room = False  # the provider's flex tier has none for the call now


class NoAnswer(TransientModelError):
    """A proxy's page, a truncated body, no choices, an empty message: the call is tried again. `kind` groups rejects,
    if only this row is never answered; `billed`: the provider may have charged for it."""

    def __init__(self, message: str, *, kind: str, raw: str | None = None, billed: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.raw = raw
        self.billed = billed


class RowError(ModelError):
    """The provider or the answer refuses this row. `kind` groups rejects: bad_request, content_filter, …; `status` is
    the HTTP status of a provider's refusal, `parameter` the parameter that it refuses."""

    def __init__(
        self, message: str, *, kind: str, hint: str = "", raw: str | None = None, status: int | None = None,
        parameter: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint)
        self.kind = kind
        self.raw = raw
        self.status = status
        self.parameter = parameter


class StoreError(TandemError):
    exit_code = 4
    retryable = True


class StoreRefused(StoreError):
    """Refused, and would be refused again: credentials, bucket, region, a full or read-only disk, a name that is too
    long."""

    retryable = False


class NoRoom(StoreRefused):
    """Nothing more can be written until space is freed."""


class Damaged(StoreRefused):
    """An object of Tandem cannot be read any more; the hint names the repair."""


class ObjectExists(StoreError):
    """Put-if-absent found an object under the key."""

    retryable = False


class ObjectMissing(StoreError):
    """No object under this key."""

    retryable = False


class Bug(TandemError):
    """An exception that is none of these: a fault of Tandem."""

    repeats = True
    exit_code = 70


def by_code(code: str) -> type[TandemError]:
    """Return the class of this name, as in `TandemError.code` and in a failure that crossed Temporal; TandemError for
    any other name."""
    return _CLASSES.get(code, TandemError)


def _all(cls: type[TandemError]) -> Iterator[type[TandemError]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _all(subclass)


_CLASSES = {cls.__name__: cls for cls in _all(TandemError)}
