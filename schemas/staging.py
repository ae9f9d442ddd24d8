"""What a partition's batches stage before it is published, as objects that name each other."""

import datetime as dt

from schemas.manifest import BrokenCheck, Counts, Noun, Reuse, Shares


class RowRange(Noun):
    """`rows` rows of file number `file`, from row `start`."""

    file: int
    start: int
    rows: int


class PlannedBatch(Noun):
    """The rows of one batch, and the object of what the journal knows of them (None: nothing)."""

    rows: int
    ranges: tuple[RowRange, ...]
    known: str | None = None


class OpenedPartition(Noun):
    """Written by `open`, read by every batch and by `publish`. `whole` false: `--limit-rows` cut it."""

    partition: str
    base: int
    input_fingerprint: str
    rows: int
    whole: bool
    batches: tuple[PlannedBatch, ...]
    folder: str
    answers: str | None = None  # the object of what people answered
    damage: tuple[str, ...] = ()
    started_at: dt.datetime


class StagedFile(Noun):
    key: str
    sha256: str
    size: int
    rows: int


class Receipt(Noun):
    """What a batch came to."""

    batch: int
    data: StagedFile
    index: StagedFile
    rejects: StagedFile | None
    pending: StagedFile | None = None
    parked: int = 0  # of the pending rows, those of stages that say pending: wait
    counts: Counts
    reuse: Reuse
    shares: Shares = {}
    damage: tuple[str, ...] = ()


class Refusal(Noun):
    """What a partition came to that was enriched to its end and then refused; `publish` leaves it for `close`."""

    counts: Counts
    reuse: Reuse
    shares: Shares = {}
    checks: tuple[BrokenCheck, ...] = ()
