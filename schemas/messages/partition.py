"""A partition: its workflow, opening, publishing and closing it."""

from schemas.manifest import BrokenCheck, Counts, Reuse, Shares, Usage
from schemas.messages.base import Concurrency, Message, Outcome, RunRef
from schemas.messages.batch import BatchResult
from schemas.messages.jobs import ParkedCalls, Waves


class PartitionInput(Message):
    """The input of a partition. `rehearsal`: the first `rows` rows are enriched and checked, and nothing is
    published. `small`: all its work is one activity, as far as that gets."""

    ref: RunRef
    plan: str
    partition: str
    rows: int
    windows: Concurrency
    rehearsal: bool = False
    waves: Waves = Waves()
    small: bool = False


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


class Onward(Message):
    """The work on a small partition after it was opened: its only batch, and its outcome if it was published, after
    `publish_s`. Otherwise its workflow goes on from the batch's result."""

    batch: BatchResult
    published: PartitionResult | None = None
    publish_s: float = 0.0


class OpenRequest(Message):
    """Open at most `limit` rows. `lost_to`: the base on which a CommitConflict happened. `onward`: enrich and publish
    them, too, if they are one batch."""

    ref: RunRef
    plan: str
    partition: str
    limit: int
    lost_to: int | None = None
    onward: bool = False
    waves: Waves = Waves()  # of a batch that is enriched


class Opened(Message):
    """The opened partition: `opened` is the key of the object with its batches; base is the current generation; of its
    rows, `filtered` are in no batch. `onward`: what was done besides."""

    opened: str
    base: int
    batches: int
    rows: int
    filtered: int = 0
    up_to_date: bool = False
    onward: Onward | None = None  # None, too, of a worker of an earlier version


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
    """Record the outcome of a partition without a publication. With `fence`, a tombstone is committed first. `base`:
    the generation that the run built on, -1 if it is not known. `rows`: the number of rows to enrich."""

    ref: RunRef
    plan: str
    partition: str
    outcome: Outcome
    error: str = ""
    message: str = ""
    base: int = 0
    fence: str = ""  # the nonce of the tombstone to commit first; empty for none
    rows: int = 0
