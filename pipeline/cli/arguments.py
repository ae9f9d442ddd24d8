"""Parse arguments that several commands share."""

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import UsageError

if TYPE_CHECKING:
    from schemas.plan import Selection

DEFAULT_SPEC = Path("tandem.yaml")


def is_key(text: str) -> bool:
    """True if the text is a partition key and not the name of a file."""
    return re.match(r"[^/.]+=", text) is not None and not Path(text).exists()


def spec_and_key(spec: Path, key: str | None) -> tuple[Path, str | None]:
    """Return SPEC and KEY, each of which may be left out: a key alone means the spec of this folder."""
    return (DEFAULT_SPEC, str(spec)) if key is None and is_key(str(spec)) else (spec, key)


def selection_of(
    partition: list[str] | None,
    period: tuple[str | None, str | None, str | None],
    reprocess: str = "stale",
    limit_rows: int | None = None,
    fresh: bool = False,
    allow_schema_change: bool = False,
    *,
    prune: bool = False,
    no_calls: bool = False,
) -> "Selection":
    """Return the selection of a command line; `period` is --from-date, --to-date and --last. Raises UsageError."""
    from schemas.plan import Selection

    from_date, to_date, last = period
    if reprocess not in ("missing", "failed", "stale", "all"):
        raise UsageError(f"--reprocess {reprocess}: not one of missing, failed, stale, all.")
    if partition and (from_date or to_date or last):
        raise UsageError(
            "--partition cannot be combined with --from-date, --to-date or --last.", hint="Remove one of them."
        )
    part = bool(partition or from_date or to_date or last or limit_rows is not None)
    if allow_schema_change and (part or reprocess in ("missing", "failed")):
        raise UsageError(
            "--allow-schema-change publishes every partition again; it cannot be combined with selectors, --limit-rows "
            f"or --reprocess {reprocess if reprocess in ('missing', 'failed') else 'missing|failed'}.",
            hint="Write: --reprocess all --allow-schema-change",
        )
    return Selection(
        partitions=tuple(partition or ()),
        from_date=from_date,
        to_date=to_date,
        last=last,
        reprocess=reprocess,
        limit_rows=limit_rows,
        fresh=fresh,
        prune=prune,
        no_calls=no_calls,
        new_version=allow_schema_change,
    )


def seconds(text: str | None) -> float | None:
    """Return `--watch-timeout` in seconds. Raises UsageError."""
    return None if text is None else duration("--watch-timeout", text).total_seconds()


def duration(flag: str, text: str) -> timedelta:
    """Return the duration of a flag such as `30m`. Raises UsageError."""
    from schemas.spec.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"{flag} {text}: {exc}.") from None
