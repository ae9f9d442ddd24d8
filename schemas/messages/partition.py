"""A partition: its workflow, opening, publishing and closing it."""

from schemas.manifest import BrokenCheck, Counts, Reuse, Shares, Usage
from schemas.messages.base import Concurrency, Message, Outcome, RunRef
from schemas.messages.jobs import ParkedCalls, Waves


class PartitionInput(Message):
    """The input of a partition. `rehearsal`: the first `rows` rows are enriched and checked, and nothing is
    published."""

    ref: RunRef
    plan: str
    partition: str
    rows: int
    windows: Concurrency
    rehearsal: bool = False
    waves: Waves = Waves()


class OpenRequest(Message):
    """Open at most `limit` rows. `lost_to`: the base on which a CommitConflict happened."""

    ref: RunRef
    plan: str
    partition: str
    limit: int
    lost_to: int | None = None


class Opened(Message):
    """The opened partition: `opened` is the key of the object with its batches; base is the current generation; of its
    rows, `filtered` are in no batch."""

    opened: str
    base: int
    batches: int
    rows: int
    filtered: int = 0
    up_to_date: bool = False


class AnswersRequest(Message):
    """Request the state of the questions of these batches. `tell`: publish the questions for `tandem review` first."""

    ref: RunRef
    plan: str
    partition: str
    opened: str
    receipts: tuple[str, ...]
    tell: bool


class Answers(Message):
    """The number of questions that block the publication: without and with an answer."""

    missing: int
    given: int


class ParkedPartition(Message):
    """Signal of a partition to its run: it waits for answers to this many questions; 0 if it no longer waits."""

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
    """Request the run that holds a partition."""

    ref: RunRef
    partition: str


class Holder(Message):
    """The name of the run; empty if no run holds the partition any more."""

    run: str = ""


class CloseRequest(Message):
    """Record the outcome of a partition without a publication. With `fence`, a tombstone is committed first. `rows`:
    the number of rows to enrich."""

    ref: RunRef
    plan: str
    partition: str
    outcome: Outcome
    error: str = ""
    message: str = ""
    base: int = 0
    fence: str = ""  # the nonce of the tombstone to commit first; empty for none
    rows: int = 0


class PartitionResult(Message):
    """The outcome of a partition. `error` and `message` only if it was not published; `warnings`: their number in the
    manifest. Broken `checks` are only in the outcome's object: they name rows, and no row crosses Temporal. `parked`:
    the calls of a `waiting` partition."""

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
    parked: ParkedCalls = ParkedCalls()
