"""Arguments and flags that several commands share, and what they amount to."""

import math
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import UsageError

if TYPE_CHECKING:
    from schemas.plan import Selection


def _usd(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"--max-cost {value:g}: not an amount above zero.", hint="Write USD, for example --max-cost 5")
    return value


SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The pipeline's YAML file.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name, or pipeline/name.")]
KeyArgument = Annotated[str | None, typer.Argument(metavar="KEY", help="A partition key: day=2026-11-01.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing; errors are told all the same.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show logs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Partitions = Annotated[list[str] | None, typer.Option("--partition", metavar="KEY", help="Only this one (repeatable).")]
FromDate = Annotated[str | None, typer.Option("--from-date", metavar="DATE", help="From this day or time on.")]
ToDate = Annotated[str | None, typer.Option("--to-date", metavar="DATE", help="To this day (included) or time.")]
Last = Annotated[str | None, typer.Option("--last", metavar="30d", help="The last days, today included.")]
Reprocess = Annotated[str, typer.Option("--reprocess", metavar="missing|failed|stale|all", help="What runs again.")]
NewVersion = Annotated[
    bool, typer.Option("--new-version", help="Let the output's schema break with what is published.")
]
WatchTimeout = Annotated[
    str | None, typer.Option("--watch-timeout", metavar="D", help="Stop watching after 30m, 2h, …")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="USD", callback=_usd, help="Pause before more than this is spent."),
]
DEFAULT_SPEC = Path("tandem.yaml")


def is_key(text: str) -> bool:
    """Is it a partition's key, and no file's name?"""
    return re.match(r"[^/.]+=", text) is not None and not Path(text).exists()


def spec_and_key(spec: Path, key: str | None) -> tuple[Path, str | None]:
    """SPEC and KEY may each be left out: a key alone means the spec of this folder."""
    return (DEFAULT_SPEC, str(spec)) if key is None and is_key(str(spec)) else (spec, key)


def selection_of(
    partition: list[str] | None,
    from_date: str | None,
    to_date: str | None,
    last: str | None,
    reprocess: str,
    limit_rows: int | None,
    fresh: bool,
    new_version: bool = False,
) -> "Selection":
    """The selectors of a command line. Raises UsageError."""
    from schemas.plan import Selection

    if reprocess not in ("missing", "failed", "stale", "all"):
        raise UsageError(f"--reprocess {reprocess}: not one of missing, failed, stale, all.")
    if partition and (from_date or to_date or last):
        raise UsageError("--partition goes without --from-date, --to-date and --last.", hint="Use one or the other.")
    return Selection(
        partitions=tuple(partition or ()),
        from_date=from_date,
        to_date=to_date,
        last=last,
        reprocess=reprocess,
        limit_rows=limit_rows,
        fresh=fresh,
        new_version=new_version,
    )


def seconds(text: str | None) -> float | None:
    """`--watch-timeout` in seconds. Raises UsageError."""
    return None if text is None else duration("--watch-timeout", text).total_seconds()


def duration(flag: str, text: str) -> timedelta:
    """The value of a flag like `30m`. Raises UsageError."""
    from schemas.spec.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"{flag} {text}: {exc}.") from None
