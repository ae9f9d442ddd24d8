"""Tandem from Python, for notebooks and tests: a table in, a report and a LazyFrame out.

    from pipeline.api import run, plan, check, scan

    result = run("tandem.yaml")                        # or a Spec, or a mapping with the same keys
    result = run(spec, frame=df)                       # a Polars, pandas or Arrow table instead of the source
    result.report["rows"]["ok"], result.frame.collect()

Everything is what the command line does: the same engine, the same journal, the same published dataset. But the work is
done in the caller's own process: what a row's code does to a process (it exits, blocks, runs out of memory) it does to
the caller's. Where rows may do such things, run `tandem run`.
"""

import asyncio
import datetime as dt
import hashlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from pipeline.client.connection import connected
from pipeline.client.follow import follow, running_report
from pipeline.client.known_pipelines import DEFAULT_SPEC
from pipeline.client.preflight import preflight, read_spec
from pipeline.client.start import Run
from pipeline.operations.run import Order, final_report, prepare, start, working_on
from pipeline.outputs.scan import scan
from pipeline.planning import builder
from pipeline.planning.job import Ready
from pipeline.runs.report import as_json
from pipeline.settings import home_of, read_again
from schemas.errors import TandemError, UsageError
from schemas.plan import Decision, Reprocess, Selection
from schemas.spec.loading import spec_from_mapping
from schemas.spec.sections import Spec

__all__ = ["Decision", "Result", "check", "plan", "run", "scan"]
AnySpec = str | Path | Mapping[str, Any] | Spec
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """`report` has the keys of `tandem run --json`; `frame` is the committed dataset, None while nothing is."""

    report: dict[str, Any]
    frame: pl.LazyFrame | None
    sink: str

    @property
    def ok(self) -> bool:
        return bool(self.report["state"] == "completed")


def run(
    spec: AnySpec,
    *,
    frame: Any = None,
    base: str | Path | None = None,
    name: str | None = None,
    partitions: Sequence[str] = (),
    from_date: str | None = None,
    to_date: str | None = None,
    last: str | None = None,
    reprocess: Reprocess = "stale",
    limit_rows: int | None = None,
    max_cost_usd: float | None = None,
) -> Result:
    """Run a pipeline to its end, or until its budget is reached (`report["state"]` is then "paused"; again with a
    higher one it goes on). `base` is the folder that relative paths start from (default: the spec's, or the
    current one). A run that ended without publishing everything is no exception: look at the report. Raises TandemError
    for what would stop `tandem run` before it starts."""
    selection = Selection(
        partitions=tuple(partitions),
        from_date=from_date,
        to_date=to_date,
        last=last,
        reprocess=reprocess,
        limit_rows=limit_rows,
    )
    found, folder = _spec_of(spec, frame, base)
    order = Order(
        spec=found,
        base=folder,
        selection=selection,
        spec_path=folder / DEFAULT_SPEC,
        name=name,
        max_cost_usd=max_cost_usd,
    )
    return _wait(_run(order))


def plan(
    spec: AnySpec, *, frame: Any = None, base: str | Path | None = None, reprocess: Reprocess = "stale"
) -> list[Decision]:
    """What `run` would do: a decision with its reason for each partition. Spends nothing."""
    ready = _ready(spec, frame, base)
    return list(builder.decisions(ready.job, ready.store, Selection(reprocess=reprocess), dt.datetime.now(dt.UTC)))


def check(spec: AnySpec, *, frame: Any = None, base: str | Path | None = None) -> dict[str, str]:
    """The published columns and their types, once everything that `tandem check` looks at is found right. Raises
    TandemError for the first thing that is not."""
    ready = _ready(spec, frame, base)
    return {field.name: str(field.type) for field in ready.job.columns}


def _ready(spec: AnySpec, frame: Any, base: str | Path | None) -> Ready:
    return preflight(*_spec_of(spec, frame, base))


def _spec_of(spec: AnySpec, frame: Any, base: str | Path | None) -> tuple[Spec, Path]:
    """The spec, with the table as its source where one is given, and the folder that its paths start from."""
    read_again()
    folder = Path(base) if base is not None else Path.cwd()
    if isinstance(spec, str | Path):
        found, folder = read_spec(Path(spec))
    elif isinstance(spec, Spec):
        found = spec
    else:
        given = dict(spec)
        if frame is not None:
            given.setdefault("source", {"path": "frame.parquet"})
        found = spec_from_mapping(given, base=folder)
    if frame is not None:
        found = _with_frame(found, frame, folder)
    return found, folder.absolute()


def _with_frame(spec: Spec, frame: Any, folder: Path) -> Spec:
    """The spec with a table of this process as its source, kept as Parquet under the home: a run may outlive us."""
    table = _polars(frame)
    inputs = home_of(folder) / "frames"
    inputs.mkdir(parents=True, exist_ok=True)
    fresh = inputs / f".{spec.name}-{threading.get_ident()}.parquet"
    table.write_parquet(fresh, row_group_size=10_000)
    content = hashlib.sha256(fresh.read_bytes()).hexdigest()[:16]
    # One file of this name, so that the partition key (by: files) stays the same from run to run.
    target = inputs / content / f"{spec.name}.parquet"
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        fresh.unlink()
    else:
        fresh.replace(target)
    source = spec.source.model_copy(update={"path": str(target.absolute()), "format": "parquet"})
    return spec.model_copy(update={"source": source})


def _polars(frame: Any) -> pl.DataFrame:
    """A Polars, pandas or Arrow table as Polars. Raises UsageError for anything else."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    try:
        if type(frame).__module__.startswith("pandas"):
            return pl.from_pandas(frame)
        made = pl.from_arrow(frame)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"frame is a {type(frame).__name__}, which is no table: {exc}.") from None
    if not isinstance(made, pl.DataFrame):
        raise UsageError(f"frame is a {type(frame).__name__}; give a Polars, pandas or Arrow table.")
    return made


async def _run(order: Order) -> Result:
    ready = await asyncio.to_thread(prepare, order)
    decided = await asyncio.to_thread(
        lambda: list(builder.decisions(ready.job, ready.store, order.selection, dt.datetime.now(dt.UTC)))
    )
    async with connected(ready.base) as found:
        run = await start(found, ready, order, {d.partition for d in decided if d.run})
        over_budget = False
        if run.handle is not None:
            async with working_on(found, ready.spec.name):
                over_budget = await _followed(run)
    report = await asyncio.to_thread(running_report, run) if over_budget else await final_report(run)
    try:
        frame = await asyncio.to_thread(scan, ready.store)
    except TandemError:
        frame = None
    return Result(as_json(report), frame, ready.store.uri)


async def _followed(run: Run) -> bool:
    """To its end, or, True, until its budget has stopped it."""
    async for progress in follow(run):
        if progress.stop is not None:
            return True
    return False


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop is at work already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    failed: list[BaseException] = []

    def run_apart() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as exc:  # noqa: BLE001  handed to the caller's thread
            failed.append(exc)

    thread = threading.Thread(target=run_apart, name="tandem-run")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
