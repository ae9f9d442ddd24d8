"""Tandem from Python, for notebooks and tests: a table in, a report and a LazyFrame out.

    from pipeline.api import run, plan, check, scan

    result = run("tandem.yaml")                        # or a Spec, or a mapping with the same keys
    result = run(spec, frame=df)                       # a Polars, pandas or Arrow table instead of the source
    result.report["rows"]["ok"], result.frame.collect()

It does the same as the command line: the same engine, journal and published dataset. But the work is done in the
caller's process: a row whose code exits, blocks or runs out of memory does that to the caller. For such rows use
`tandem run`.
"""

import asyncio
import contextvars
import datetime as dt
import hashlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from pipeline.client.connection import connected
from pipeline.client.follow import follow
from pipeline.client.known_pipelines import DEFAULT_SPEC
from pipeline.client.preflight import preflight
from pipeline.client.run import Run
from pipeline.client.spec_file import read_spec
from pipeline.operations.run import Order, final_report, prepare, start, working_on
from pipeline.outputs.scan import scan
from pipeline.planning import builder
from pipeline.planning.job import Ready
from pipeline.runs.progress import live_report
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
    """`report` has the keys of `tandem run --json`; `frame` is the committed dataset, None while there is none."""

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
    """Run a pipeline to its end, or until its budget is reached (`report["state"]` is then "paused"; call it again with
    a higher budget to resume). `base` is the folder of relative paths (default: the spec's, or the current one). A run
    that ends without publishing everything raises nothing: check the report. Raises TandemError for errors that stop
    `tandem run` before it starts."""
    selection = Selection(
        partitions=tuple(partitions),
        from_date=from_date,
        to_date=to_date,
        last=last,
        reprocess=reprocess,
        limit_rows=limit_rows,
    )
    loaded, folder = _spec_of(spec, frame, base)
    order = Order(
        spec=loaded,
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
    """Return what `run` would do: a decision with its reason for each partition. Spends nothing."""
    ready = _ready(spec, frame, base)
    return list(builder.decisions(ready.job, ready.store, Selection(reprocess=reprocess), dt.datetime.now(dt.UTC)))


def check(spec: AnySpec, *, frame: Any = None, base: str | Path | None = None) -> dict[str, str]:
    """Check everything that `tandem check` does, and return the published columns and their types. Raises TandemError
    for the first fault."""
    ready = _ready(spec, frame, base)
    return {field.name: str(field.type) for field in ready.job.columns}


def _ready(spec: AnySpec, frame: Any, base: str | Path | None) -> Ready:
    return preflight(*_spec_of(spec, frame, base))


def _spec_of(spec: AnySpec, frame: Any, base: str | Path | None) -> tuple[Spec, Path]:
    """Return the spec, with the table as its source if given, and the folder of relative paths."""
    read_again()
    folder = Path(base) if base is not None else Path.cwd()
    if isinstance(spec, str | Path):
        loaded, folder = read_spec(Path(spec))
    elif isinstance(spec, Spec):
        loaded = spec
    else:
        mapping = dict(spec)
        if frame is not None:
            mapping.setdefault("source", {"path": "frame.parquet"})
        loaded = spec_from_mapping(mapping, base=folder)
    if frame is not None:
        loaded = _with_frame(loaded, frame, folder)
    return loaded, folder.absolute()


def _with_frame(spec: Spec, frame: Any, folder: Path) -> Spec:
    """Return the spec with a table as its source, saved as Parquet under the home: a run may outlive this process."""
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
    """Return a Polars, pandas or Arrow table as Polars. Raises UsageError for anything else."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    try:
        if type(frame).__module__.startswith("pandas"):
            return pl.from_pandas(frame)
        table = pl.from_arrow(frame)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"frame is a {type(frame).__name__}, which is not a table: {exc}.") from None
    if not isinstance(table, pl.DataFrame):
        raise UsageError(f"frame is a {type(frame).__name__}; give a Polars, pandas or Arrow table.")
    return table


async def _run(order: Order) -> Result:
    ready = await asyncio.to_thread(prepare, order)
    decisions = await asyncio.to_thread(
        lambda: list(builder.decisions(ready.job, ready.store, order.selection, dt.datetime.now(dt.UTC)))
    )
    async with connected(ready.base) as connection:
        run = await start(connection, ready, order, {d.partition for d in decisions if d.run})
        over_budget = False
        if run.handle is not None:
            async with working_on(connection, ready.spec.name):
                over_budget = await _follow(run)
    report = await asyncio.to_thread(live_report, run.store, run.request) if over_budget else await final_report(run)
    try:
        frame = await asyncio.to_thread(scan, ready.store)
    except TandemError:
        frame = None
    return Result(as_json(report), frame, ready.store.uri)


async def _follow(run: Run) -> bool:
    """Follow a run to its end, or until its budget pauses it. Return True if it is paused."""
    async for progress in follow(run):
        if progress.stop is not None:
            return True
    return False


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, even if an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[T] = []
    errors: list[BaseException] = []

    def run_apart() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as exc:  # noqa: BLE001  handed to the caller's thread
            errors.append(exc)

    # In the caller's context, where its callbacks are.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run_apart,), name="tandem-run")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
