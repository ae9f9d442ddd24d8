"""The objects that a partition's batches stage before publication; they name each other."""

import datetime as dt

from schemas.manifest import Answerers, BrokenCheck, Counts, Noun, Reuse, Shares


class StagedFile(Noun):
    key: str
    sha256: str
    size: int
    rows: int


class RowRange(Noun):
    """`rows` rows of file number `file`, from row `start`."""

    file: int
    start: int
    rows: int


class PlannedBatch(Noun):
    """The rows of one batch, and the objects with records of them (None: there are none): from the partition's own
    journal, and from journals elsewhere. `digests`: the object with the digests of the rows (None: none is)."""

    rows: int
    ranges: tuple[RowRange, ...]
    known: str | None = None
    elsewhere: str | None = None
    digests: str | None = None


class OpenedPartition(Noun):
    """Written by `open`, read by every batch and by `publish`. `whole` false: limited by `--limit-rows`. `fresh`: its
    answers are to be new.

    Where the stages before the first model leave rows out, the batches have only the others: copies of these rows lie
    in `selected`, which ranges count after the files of the snapshot, and `filtered` has the identities of the rows
    that were left out."""

    partition: str
    base: int
    input_fingerprint: str
    rows: int
    whole: bool
    batches: tuple[PlannedBatch, ...]
    folder: str
    answers: str | None = None  # the object with people's answers
    damage: tuple[str, ...] = ()
    fresh: bool = False
    selected: tuple[StagedFile, ...] = ()
    filtered: tuple[StagedFile, ...] = ()
    started_at: dt.datetime

    @property
    def rows_enriched(self) -> int:
        """The number of rows that are in batches."""
        return self.rows - self.rows_filtered

    @property
    def rows_filtered(self) -> int:
        """The number of rows that are in no batch."""
        return sum(file.rows for file in self.filtered)


class Receipt(Noun):
    """The result of a batch."""

    batch: int
    data: StagedFile
    index: StagedFile
    rejects: StagedFile | None
    pending: StagedFile | None = None
    parked: int = 0  # of the pending rows, those of stages that say pending: wait
    counts: Counts
    reuse: Reuse
    shares: Shares = {}
    answered_by: Answerers = {}
    damage: tuple[str, ...] = ()


class Refusal(Noun):
    """The counts of a partition that was enriched fully and then refused; `publish` writes it for `close`."""

    counts: Counts
    reuse: Reuse
    shares: Shares = {}
    checks: tuple[BrokenCheck, ...] = ()
