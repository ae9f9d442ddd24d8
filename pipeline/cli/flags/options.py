"""Arguments and flags that several commands share."""

import math
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UsageError
from schemas.tier import Tier


def _usd(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"--max-cost {value:g}: not an amount above zero.", hint="Write USD, for example --max-cost 5")
    return value


SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The pipeline's YAML file.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name, or pipeline/name.")]
KeyArgument = Annotated[str | None, typer.Argument(metavar="KEY", help="A partition key: day=2026-11-01.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show logs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Partitions = Annotated[list[str] | None, typer.Option("--partition", metavar="KEY", help="Only this one (repeatable).")]
FromDate = Annotated[str | None, typer.Option("--from-date", metavar="DATE", help="From this day or time on.")]
ToDate = Annotated[str | None, typer.Option("--to-date", metavar="DATE", help="To this day (included) or time.")]
Last = Annotated[str | None, typer.Option("--last", metavar="30d", help="The last days, today included.")]
Reprocess = Annotated[
    str, typer.Option("--reprocess", metavar="missing|failed|stale|all", help="The partitions to run again.")
]
AllowSchemaChange = Annotated[
    bool,
    typer.Option(
        "--allow-schema-change",
        "--new-version",
        help="Change or drop published columns: every partition is republished.",
    ),
]
PriceTier = Annotated[
    Tier | None,
    typer.Option(
        "--tier",
        metavar="standard|flex|batch",
        help="How the models are paid: batch and flex cost half and take longer; by default as in the spec.",
    ),
]
Prune = Annotated[bool, typer.Option("--prune", help="Retire partitions that are gone from the source.")]
Processes = Annotated[
    int | None,
    typer.Option(min=1, max=64, metavar="N", help="Worker processes; by default one per core, one for small jobs."),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus here; by default TANDEM_METRICS."
    ),
]
MetricsLinger = Annotated[
    str | None,
    typer.Option("--metrics-linger", metavar="15s", help="Serve them for so long after the end, for a last scrape."),
]
WatchTimeout = Annotated[
    str | None, typer.Option("--watch-timeout", metavar="D", help="Stop watching after 30m, 2h, …")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="USD", callback=_usd, help="Pause before more than this is spent."),
]
