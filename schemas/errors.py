"""Everything that can go wrong, by what the reader can do about it.

    TandemError                     a fact, a hint (the next step), a code, an exit code
    ├── UsageError            (2)   the command, the spec or its data cannot be used as they are
    │   ├── SpecError               the spec file is wrong
    │   ├── SourceError             the input is absent, unreadable or lacks a column
    │   ├── SinkError               the sink cannot take what it is given
    │   ├── PlanOutdated            `--plan`: the world has moved since it was made
    │   └── NameTaken               a run's name, or its partitions, belong to another request
    ├── ConnectionFailed      (4)   Temporal, a store or a provider cannot be reached
    ├── PartitionError        (1)   this partition fails, its siblings do not
    │   ├── InputChanged            the source moved between plan and read
    │   ├── DuplicateKeys           two rows of a partition share a key
    │   ├── SchemaChanged           the output would break the dataset's declared schema
    │   ├── ChecksFailed            a blocking check failed before publishing
    │   ├── CountsMismatch          rows in and rows accounted for differ: a bug of ours, nothing is published
    │   ├── CommitConflict          another writer published something else
    │   ├── Cancelled               a tombstone won: the run was cancelled
    │   └── CodeMismatch            this worker has other code than the plan: another worker must take it
    ├── LimitReached          (3)   stopped on purpose
    │   ├── RejectRateExceeded
    │   ├── BudgetReached
    │   ├── TooManyFailures
    │   ├── CanaryFailed
    │   └── FatalModelError         no key, no access, no such model, no money: every further call would fail
    ├── ModelError                  one call failed …
    │   ├── TransientModelError     … and may succeed later (never an attempt, always a wait)
    │   │   └── NoAnswer            a success by its status that holds no answer
    │   └── RowError                … and would fail again for this row: the row is rejected
    ├── StoreError            (4)   an object could not be read or written
    │   ├── StoreRefused            … and will not be until somebody mends credentials, bucket, region or disk
    │   │   ├── NoRoom              the disk, or the quota, is full
    │   │   └── Damaged             an object of ours is empty, cut short or no longer what was written
    │   ├── ObjectExists            put-if-absent found an object
    │   └── ObjectMissing           get found none
    └── Bug                  (70)   an exception that is none of these

A class says whether trying again can help (`retryable`) and whether it ends the run at once (`stops_run`);
`pipeline.activities.boundary` turns the first into Temporal's terms. What has crossed Temporal is known by its class
name alone: `by_code` finds the class again, so that nobody compares names.
"""

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
    repeats: ClassVar[bool] = False  # the same run again fails the same, until somebody changes something

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
    """The spec is wrong; the message names file, line, field, value and what is allowed. `places`: of each sentence of
    the message, where in the spec it belongs; for whoever knows the file."""

    def __init__(
        self, message: str, *, hint: str = "", places: "Sequence[tuple[tuple[str | int, ...], str]]" = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.places = tuple(places)


class SourceError(UsageError):
    """The input is absent, empty, unreadable, or lacks what the spec asks of it."""


class SinkError(UsageError):
    """The sink belongs to another pipeline, ignores conditional writes, or cannot hold the output."""


class NameTaken(UsageError):
    """A run of this name has another spec or selection, or another run holds the partitions."""


class PlanOutdated(UsageError):
    """A plan that was written down is not what would be done now; the message says what moved."""


class ConnectionFailed(TandemError):
    exit_code = 4
    retryable = True


class PartitionError(TandemError):
    """One partition cannot be published; the others go on."""


class InputChanged(PartitionError):
    """A source object is not the one that was planned; planning again will see the new one."""


class DuplicateKeys(PartitionError):
    """Rows of one partition share a key that the spec declares unique."""

    repeats = True


class SchemaChanged(PartitionError):
    """The output's schema is not an additive change of the dataset's."""

    repeats = True
    exit_code = 2


class ChecksFailed(PartitionError):
    """A check of severity `block` found rows that break it. `checks`: those of either severity that rows break."""

    repeats = True

    def __init__(self, message: str, *, checks: "Sequence[BrokenCheck]" = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.checks = tuple(checks)


class CountsMismatch(PartitionError):
    """in ≠ ok + rejected + filtered + pending. Never published."""

    repeats = True


class CommitConflict(PartitionError):
    """The generation was taken twice by other content; the message names the winner."""

    def __init__(self, message: str, *, winner: "Manifest | None" = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.winner = winner


class Cancelled(PartitionError):
    """A tombstone holds the generation: the run was cancelled before this commit."""


class CodeMismatch(PartitionError):
    """The code imported here is not the code that was planned; a worker that has it must take the batch."""


class LimitReached(TandemError):
    exit_code = 3


class RejectRateExceeded(LimitReached):
    """More rows of a partition were rejected than `limits.max_reject_rate` allows."""

    repeats = True


class BudgetReached(LimitReached):
    """The next call does not fit in a budget. `needed`: what it may take, in USD / 10^9 and in tokens."""

    stops_run = True

    def __init__(self, message: str, *, hint: str = "", needed: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class TooManyFailures(LimitReached):
    """As many partitions failed as `--max-failures` allows; the rest was not begun."""


class CanaryFailed(LimitReached):
    """The sample that went first broke a check or the reject rate; the rest was not begun."""


class FatalModelError(LimitReached):
    """Every further call would fail the same way; the message names the setting to mend."""

    stops_run = True


class ModelError(TandemError):
    """One model call failed. `billed` says whether the provider may have charged for it."""

    billed: bool = False


class TransientModelError(ModelError):
    """Rate limit, overload, timeout, connection: wait at least `retry_after` seconds, then call again. `congestion`
    says what asking more slowly would help: `rate` (too many a minute), `overload` (too many at once), or nothing."""

    retryable = True

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None, congestion: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.congestion = congestion


class NoAnswer(TransientModelError):
    """A proxy's page, a body cut short, no choices, an empty message: nobody's fault, and tried again. `kind` groups
    rejects, should one row alone never be answered; `billed`: the provider may have charged for it."""

    def __init__(self, message: str, *, kind: str, raw: str | None = None, billed: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.raw = raw
        self.billed = billed


class RowError(ModelError):
    """The provider or the answer refuses this row. `kind` groups rejects: bad_request, content_filter, …; `status` is
    that of a provider's refusal, `parameter` what it says that it refuses."""

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
    """Refused, and would be again: credentials, bucket, region, a full or read-only disk, a name that is too long."""

    retryable = False


class NoRoom(StoreRefused):
    """Nothing more can be written until somebody frees some space."""


class Damaged(StoreRefused):
    """An object of ours cannot be read any more; the hint names the way back."""


class ObjectExists(StoreError):
    """Put-if-absent: the key is taken."""

    retryable = False


class ObjectMissing(StoreError):
    """No object under this key."""

    retryable = False


class Bug(TandemError):
    """An exception that is none of these: a fault of Tandem's."""

    repeats = True
    exit_code = 70


def by_code(code: str) -> type[TandemError]:
    """The class of this name, as `TandemError.code` and a failure that crossed Temporal give it; TandemError itself
    for a name that is none of ours."""
    return _CLASSES.get(code, TandemError)


def _all(cls: type[TandemError]) -> Iterator[type[TandemError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _all(below)


_CLASSES = {cls.__name__: cls for cls in _all(TandemError)}
