"""What a run was asked and what it will do: the objects that a plan is written as, and the decisions in it."""

import datetime as dt
from typing import Literal, NamedTuple

import pydantic.dataclasses

from schemas.manifest import Noun
from schemas.spec.durations import Duration

CauseKind = Literal[
    "never_published", "last_attempt", "partial", "stages", "input", "answered", "pending", "up_to_date", "asked",
    "other",
]  # fmt: skip
Reprocess = Literal["missing", "failed", "stale", "all"]


class Due(Noun):
    """A firing of a schedule: it takes what is over by `at`. Of what was over at `since` already, back to `lookback`,
    only what was never published or failed last. `open`: all that changed back to there, over or not."""

    at: dt.datetime
    since: dt.datetime
    lookback: Duration
    open: bool = False


class Selection(Noun):
    """What a run is asked to take. Part of its identity. `limit_rows`: the first N rows in plan order;
    `new_version`: the dataset's schema may change in ways that break its readers."""

    partitions: tuple[str, ...] = ()
    from_date: str | None = None
    to_date: str | None = None
    last: str | None = None
    reprocess: Reprocess = "stale"
    limit_rows: int | None = None
    fresh: bool = False
    agreed: str = ""  # the object of a plan that was agreed on: what it says is done, or nothing
    due: Due | None = None
    new_version: bool = False


class RowChanges(Noun):
    """A partition's rows against those of its current generation, by identity and content."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0

    def __add__(self, other: "RowChanges") -> "RowChanges":
        return RowChanges(**{name: getattr(self, name) + getattr(other, name) for name in RowChanges.model_fields})

    @property
    def said(self) -> str:
        """`12 rows new, 3 changed`; nothing where nothing moved."""
        moved = [(n, name) for name in ("new", "changed", "removed") if (n := getattr(self, name))]
        if not moved:
            return ""
        (first, name), *more = moved
        rows = f"{first:,} row{'' if first == 1 else 's'} {name}"
        return ", ".join([rows, *(f"{n:,} {name}" for n, name in more)])


class Cause(NamedTuple):
    """Why a partition runs, or doesn't: the kind, for code, and the words, for people."""

    kind: CauseKind
    text: str


@pydantic.dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Whether a partition runs, and why (not), by which input and over which generation of which run. `index` names the
    rows of that generation; `changes` are there where rows may have moved, once they were compared. With slots, as
    there is one for each of 100,000 partitions."""

    partition: str
    run: bool
    causes: tuple[Cause, ...]
    rows: int
    fingerprint: str = ""
    generation: int = 0
    published_by: str = ""
    index: str | None = None
    changes: RowChanges | None = None

    @property
    def reason(self) -> str:
        return ", ".join(cause.text for cause in self.causes)

    @property
    def why(self) -> str:
        """The reason, with the rows that moved where they are the reason."""
        moved = self.changes.said if self.changes is not None and self.input_changed else ""
        return f"{self.reason}: {moved}" if moved else self.reason

    @property
    def moved(self) -> RowChanges:
        """Without a comparison nothing has moved: the input is the one that is published."""
        return self.changes or RowChanges(unchanged=self.rows)

    @property
    def input_changed(self) -> bool:
        return self.has("input")

    @property
    def rows_may_differ(self) -> bool:
        """Whether its rows have to be compared with those that are published."""
        return self.input_changed or self.has("partial")

    def has(self, kind: CauseKind) -> bool:
        return any(cause.kind == kind for cause in self.causes)


class RunRequest(Noun):
    """`digest` is of spec and selection; `base` is the spec's folder, for prompts, user code and relative paths."""

    run: str
    pipeline: str
    digest: str
    spec: str
    base: str
    selection: Selection
    created_at: dt.datetime


class Plan(Noun):
    """`stages` are the shapes that manifests are compared with, `aspects` say what of them changed; `code` holds the
    digests of user code."""

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
