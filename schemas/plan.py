"""The request of a run and its plan: the objects of a plan, and the decisions in it."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas.manifest import Noun
from schemas.spec.durations import Duration

CauseKind = Literal[
    "never_published", "last_attempt", "partial", "columns", "stages", "input", "answered", "pending", "up_to_date",
    "asked", "other", "gone", "moved", "waiting",
]  # fmt: skip
Reprocess = Literal["missing", "failed", "stale", "all"]
REPUBLISH = "tandem run --reprocess all --allow-schema-change"  # every partition, under changed columns


class Due(Noun):
    """A firing of a schedule: it runs partitions that have ended by `at`. Of those that had ended at `since`, back to
    `lookback`, only the never published or last failed. `open`: all that changed in that range, ended or not."""

    at: dt.datetime
    since: dt.datetime
    lookback: Duration
    open: bool = False


class Selection(Noun):
    """The partitions and rows of a run. Part of its identity. `limit_rows`: the first N rows in plan order;
    `new_version` (`--allow-schema-change`): the dataset's schema may change in ways that break its readers; `prune`:
    partitions that are gone from the source are retired; `no_calls`: the journal's answers are taken, and no other."""

    partitions: tuple[str, ...] = ()
    from_date: str | None = None
    to_date: str | None = None
    last: str | None = None
    reprocess: Reprocess = "stale"
    limit_rows: int | None = None
    fresh: bool = False
    agreed: str = ""  # the object of a saved plan, which the run must match exactly
    due: Due | None = None
    new_version: bool = False
    prune: bool = False
    no_calls: bool = False


class RowChanges(Noun):
    """The rows of a partition compared with its current generation, by identity and content."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0

    def __add__(self, other: "RowChanges") -> "RowChanges":
        return RowChanges(**{name: getattr(self, name) + getattr(other, name) for name in RowChanges.model_fields})

    @property
    def summary(self) -> str:
        """Return `12 rows new, 3 changed`; empty without changes."""
        changes = [(n, name) for name in ("new", "changed", "removed") if (n := getattr(self, name))]
        if not changes:
            return ""
        (first, name), *more = changes
        rows = f"{first:,} row{'' if first == 1 else 's'} {name}"
        return ", ".join([rows, *(f"{n:,} {name}" for n, name in more)])


class Cause(NamedTuple):
    """The reason for which a partition runs or not: the kind, for code, and the text, for people."""

    kind: CauseKind
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a partition: run or not, the reasons, the input, and the current generation and its run. `index`
    is the row index of that generation; `retire`: the partition is gone from the source, and a run takes it out of the
    dataset, with `moved_to` once that is published; `changes` are set once rows that may differ were compared. With
    slots, as there is one for each of 100,000 partitions."""

    partition: str
    run: bool
    causes: tuple[Cause, ...]
    rows: int
    fingerprint: str = ""
    generation: int = 0
    published_by: str = ""
    index: str | None = None
    changes: RowChanges | None = None
    retire: bool = False
    moved_to: str = ""

    @property
    def reason(self) -> str:
        return ", ".join(cause.text for cause in self.causes)

    @property
    def why(self) -> str:
        """The reason, with the changed rows if they are the reason."""
        summary = self.changes.summary if self.changes is not None and self.input_changed else ""
        return f"{self.reason}: {summary}" if summary else self.reason

    @property
    def moved(self) -> RowChanges:
        """The changed rows; without a comparison none, as the input is the published one. The rows of a retired
        partition are removed."""
        if self.retire:
            return RowChanges(removed=self.rows)
        return self.changes or RowChanges(unchanged=self.rows)

    @property
    def input_changed(self) -> bool:
        return self.has("input")

    @property
    def rows_may_differ(self) -> bool:
        """True if its rows must be compared with the published ones."""
        return self.has("input", "partial")

    def has(self, *kinds: CauseKind) -> bool:
        """True if there is a cause of one of these kinds."""
        return any(cause.kind in kinds for cause in self.causes)


class Retirement(Noun):
    """A partition that a run retires at its end, if its generation is still this one. `moved_to`: only once that
    partition, which has the same input of this `fingerprint`, is published."""

    partition: str
    generation: int
    rows: int
    fingerprint: str = ""
    moved_to: str = ""


class Retirements(Noun):
    """The partitions that a plan retires."""

    partitions: tuple[Retirement, ...] = ()


class RunRequest(Noun):
    """`digest` is of spec and selection; `base` is the spec's folder, for prompts, user code and relative paths;
    `lineage_parent` and `lineage_root` name the runs of a scheduler that started it, as OpenLineage's variables do."""

    run: str
    pipeline: str
    digest: str
    spec: str
    base: str
    selection: Selection
    created_at: dt.datetime
    lineage_parent: str = ""
    lineage_root: str = ""


class Plan(Noun):
    """`stages` are the fingerprints that manifests are compared with, `aspects` name what changed in them; `code` holds
    the digests of user code; `waiting` names the files of the source that were left to a later run."""

    plan_id: str
    request: str
    run: str
    pipeline: str
    spec: str
    base: str
    snapshot: str
    stages: dict[str, str]
    aspects: dict[str, dict[str, str]] = {}
    code: dict[str, str]
    selection: Selection
    pages: int
    partitions: int
    created_at: dt.datetime
    waiting: str = ""
