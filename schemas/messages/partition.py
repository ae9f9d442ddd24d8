"""A partition: its workflow, opening, publishing and closing it."""

from schemas.manifest import BrokenCheck, Counts, Reuse, Shares, Usage
from schemas.messages.base import Concurrency, Message, Outcome, RunRef


class PartitionInput(Message):
    """`rehearsal`: the first `rows` rows are enriched and checked, and nothing is published."""

    ref: RunRef
    plan: str
    partition: str
    rows: int
    windows: Concurrency
    rehearsal: bool = False


class OpenRequest(Message):
    """`limit` rows at most. `lost_to`: the base that a CommitConflict was met on."""

    ref: RunRef
    plan: str
    partition: str
    limit: int
    lost_to: int | None = None


class Opened(Message):
    """The opened partition: `opened` is the key of the object with its batches; base is the current generation."""

    opened: str
    base: int
    batches: int
    rows: int
    up_to_date: bool = False


class AnswersRequest(Message):
    """How far are people with what these batches ask? `tell`: let them know that it is asked."""

    ref: RunRef
    plan: str
    partition: str
    opened: str
    receipts: tuple[str, ...]
    tell: bool


class Answers(Message):
    """Questions that hold the publication up, without and with an answer."""

    missing: int
    given: int


class ParkedPartition(Message):
    """Told to the run by its partition: it waits for answers to this many questions, no longer where it is none."""

    partition: str
    questions: int


class PublishRequest(Message):
    ref: RunRef
    plan: str
    partition: str
    opened: str
    receipts: tuple[str, ...]
    rehearsal: bool = False


class HolderRequest(Message):
    """Which run is at work on a partition?"""

    ref: RunRef
    partition: str


class Holder(Message):
    """The name of the run; empty where nobody holds the partition any more."""

    run: str = ""


class CloseRequest(Message):
    """Write down how a partition ended without a publication. With `fence`, a tombstone goes in first. `rows`: how many
    it was to enrich."""

    ref: RunRef
    plan: str
    partition: str
    outcome: Outcome
    error: str = ""
    message: str = ""
    base: int = 0
    fence: str = ""  # the nonce of the tombstone to put first; none without
    rows: int = 0


class PartitionResult(Message):
    """How a partition ended. `error` and `message` only where it was not published; `warnings`: how many its manifest
    has. `checks` that rows break are in the outcome's object only: they name rows, and no row crosses Temporal."""

    partition: str
    outcome: Outcome
    generation: int | None = None
    counts: Counts = Counts()
    reuse: Reuse = Reuse()
    shares: Shares = {}
    usage: Usage = Usage()
    error: str = ""
    message: str = ""
    stops_run: bool = False
    warnings: int = 0
    checks: tuple[BrokenCheck, ...] = ()
