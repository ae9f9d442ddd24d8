"""The manifest of a generation of a partition. It is the commit: created once, never changed."""

import datetime as dt
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

FORMAT = 1


class Noun(BaseModel):
    """Frozen data that is written to objects; an earlier reader ignores unknown keys of a later version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Counts(Noun):
    """Counts of source rows: rows_in = ok + rejected + filtered + pending + unfinished. `unfinished` are rows whose
    partition failed or was cancelled first, never in a manifest. `out` counts published rows, `removed` rows of the
    parent generation that the source no longer has."""

    rows_in: int = 0
    ok: int = 0
    rejected: int = 0
    filtered: int = 0
    pending: int = 0
    unfinished: int = 0
    removed: int = 0
    out: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return _added(self, other)

    @property
    def add_up(self) -> bool:
        return self.rows_in == self.ok + self.rejected + self.filtered + self.pending + self.unfinished


class Reuse(Noun):
    """Work without cost: rows answered from the journal, calls replayed from it, rows that share an answer."""

    rows_reused: int = 0
    calls_reused: int = 0
    rows_shared: int = 0

    def __add__(self, other: "Reuse") -> "Reuse":
        return _added(self, other)


class TierUsage(Noun):
    """Calls that were paid at one price tier."""

    calls: int = 0
    cost_usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: "TierUsage") -> "TierUsage":
        return TierUsage(
            calls=self.calls + other.calls, cost_usd=self.cost_usd + other.cost_usd, tokens=self.tokens + other.tokens
        )


class Usage(Noun):
    """Paid work. `calls` were answered; `unknown` were sent, with unknown outcome; `repaid` answers were paid for
    again, because the record of the first was lost with a process. `cache_saved_usd`: what providers' caches of prompts
    saved, less than zero if they cost more; `by_tier`: by price tier, as answers name it."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    web_searches: int = 0
    cache_saved_usd: float = 0.0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    unknown: int = 0
    repaid: int = 0
    by_tier: dict[str, TierUsage] = {}

    def __add__(self, other: "Usage") -> "Usage":
        by_tier = dict(self.by_tier)
        for tier, used in other.by_tier.items():
            by_tier[tier] = by_tier.get(tier, TierUsage()) + used
        numbers = [name for name in Usage.model_fields if name != "by_tier"]
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in numbers}, by_tier=by_tier)


Sum = TypeVar("Sum", Counts, Reuse)


def _added(one: Sum, other: Sum) -> Sum:
    return type(one)(**{name: getattr(one, name) + getattr(other, name) for name in type(one).model_fields})


class Share(Noun):
    """The share of one model in a stage whose models take turns: rows answered, calls and their cost."""

    rows: int = 0
    calls: int = 0
    cost_usd: float = 0.0


Shares = dict[str, dict[str, Share]]  # stage → role of the model


Answerers = dict[str, dict[str, dict[str, int]]]  # stage → model → the name in its answers → rows


def answerers_added(one: Answerers, other: Answerers) -> Answerers:
    out = {stage: {asked: dict(names) for asked, names in models.items()} for stage, models in one.items()}
    for stage, models in other.items():
        for asked, names in models.items():
            counts = out.setdefault(stage, {}).setdefault(asked, {})
            for name, rows in names.items():
                counts[name] = counts.get(name, 0) + rows
    return out


def shares_added(one: Shares, other: Shares) -> Shares:
    out = {stage: dict(roles) for stage, roles in one.items()}
    for stage, roles in other.items():
        for role, share in roles.items():
            before = out.setdefault(stage, {}).get(role, Share())
            out[stage][role] = Share(
                rows=before.rows + share.rows,
                calls=before.calls + share.calls,
                cost_usd=before.cost_usd + share.cost_usd,
            )
    return out


class DataFile(Noun):
    """A published object; `key` is relative to the sink. `time_min`/`time_max` are of the partition's time column."""

    key: str
    size: int
    sha256: str
    rows: int
    time_min: dt.datetime | None = None
    time_max: dt.datetime | None = None


class Provenance(Noun):
    """The origin of a stage's columns."""

    stage: str
    uses: str
    models: dict[str, str] = {}
    prompt_digest: str | None = None
    code_digest: str | None = None
    structured_output: str | None = None


class BrokenCheck(Noun):
    """A check of the spec that `rows` rows of a partition break. `keys`: keys of some of them, as text, if the source
    has a key; `others`: for each of these another partition that has it, if the check is `unique: dataset`."""

    name: str
    severity: Literal["block", "warn"]
    rows: int
    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Manifest(Noun):
    """One generation. `kind`: published (whole), partial (`--limit-rows`), tombstone (a cancel's fence, repeating its
    parent's files and fingerprints), retired (no files: the source has the partition no more)."""

    format: int = FORMAT
    kind: Literal["published", "partial", "tombstone", "retired"]
    pipeline: str
    partition: str
    generation: int
    parent: int | None
    files: tuple[DataFile, ...] = ()
    rejects: tuple[DataFile, ...] = ()
    pending: tuple[DataFile, ...] = ()
    index: DataFile | None = None
    schema_fingerprint: str = ""
    schema_version: int = 1
    input_fingerprint: str = ""
    stage_fingerprints: dict[str, str] = {}
    stage_aspects: dict[str, dict[str, str]] = {}  # for each stage: prompt, model, …; to report what changed
    input_columns: tuple[str, ...] = ()
    content_digest: str = ""
    counts: Counts = Counts()
    reuse: Reuse = Reuse()
    shares: Shares = {}
    answered_by: Answerers = {}
    usage: Usage = Usage()
    provenance: tuple[Provenance, ...] = ()
    warnings: tuple[str, ...] = ()
    checks: tuple[BrokenCheck, ...] = ()  # of severity warn
    run: str
    attempt: int = 1
    nonce: str
    started_at: dt.datetime
    committed_at: dt.datetime

    @property
    def present(self) -> bool:
        """True if the dataset has the partition: it is neither retired nor a tombstone without a published ancestor."""
        return self.kind != "retired" and (self.kind != "tombstone" or bool(self.stage_fingerprints))

    @property
    def whole(self) -> bool:
        """True if it holds a whole partition. A tombstone over a partial one inherits no input fingerprint."""
        return self.present and (
            self.kind == "published" or (self.kind == "tombstone" and self.input_fingerprint != "")
        )


def named(manifest: Manifest | None) -> set[str]:
    """Return the keys of all objects of a generation."""
    if manifest is None:
        return set()
    return {
        *(file.key for file in (*manifest.files, *manifest.rejects, *manifest.pending)),
        *([manifest.index.key] if manifest.index else []),
    }
