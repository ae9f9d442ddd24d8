"""A run as it goes: a live view in a terminal; in a pipe a line for each finished partition, and one every 30 s."""

import asyncio
import contextlib
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from pipeline.cli.console import Screen, err, lasting, money, now
from pipeline.launch import Run, follow
from schemas import ids
from schemas.messages import PartitionResult
from schemas.messages import Progress as Told

_LINE_EVERY_S = 30.0


class WatchTimeout(Exception):
    """`--watch-timeout` passed; the work goes on."""


async def watch(run: Run, client: Client, screen: Screen, *, timeout_s: float | None = None) -> None:
    """Follow a run to its end. Raises WatchTimeout."""
    began = now()
    view = _Live() if screen.live else _Lines(screen)
    try:
        async with asyncio.timeout(timeout_s):
            with view.shown():
                seen = 0
                async for told in follow(run):
                    for result in told.finished[max(0, seen - told.finished_before) :]:
                        view.finished(result)
                    seen = told.finished_before + len(told.finished)
                    view.progress(told, await _at_work(client, run, told), now() - began)
    except TimeoutError:
        raise WatchTimeout from None


class AtWork:
    """What running batches have done by their last heartbeats, beyond what partitions report."""

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0
        self.cost_usd = 0.0
        self.waiting = ""


async def _at_work(client: Client, run: Run, told: Told) -> AtWork:
    found = AtWork()
    for partition in told.running[:16]:
        ref = run.ref
        handle = client.get_workflow_handle(ids.partition_workflow_id(ref.pipeline, ref.sink, partition))
        with contextlib.suppress(RPCError):
            await _add(found, handle)
    return found


async def _add(found: AtWork, handle: WorkflowHandle[object, object]) -> None:
    described = await handle.describe()
    found.rows += (await handle.query("progress", result_type=Told)).rows_done
    for pending in described.raw_description.pending_activities:
        if pending.activity_type.name == "enrich_batch" and pending.HasField("heartbeat_details"):
            rows, calls, cost = await described.data_converter.decode(
                pending.heartbeat_details.payloads, [int, int, float]
            )
            found.rows, found.calls, found.cost_usd = found.rows + rows, found.calls + calls, found.cost_usd + cost


class _Lines:
    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._said_at = now()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        yield

    def finished(self, result: PartitionResult) -> None:
        self.screen.say(line(result))

    def progress(self, told: Told, work: AtWork, seconds: float) -> None:
        if now() - self._said_at < _LINE_EVERY_S:
            return
        self._said_at = now()
        self.screen.say(_status(told, work, seconds))


class _Live:
    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"),
            TimeRemainingColumn(), TextColumn("{task.fields[said]}"), console=err, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self._bar:
            yield

    def finished(self, result: PartitionResult) -> None:
        self._bar.console.print(line(result), markup=False)

    def progress(self, told: Told, work: AtWork, seconds: float) -> None:
        if self._task is None:
            self._task = self._bar.add_task("planning", total=None, said="")
        done = told.rows_done + work.rows
        self._bar.update(
            self._task,
            description=told.detail if told.state == "paused" else f"{len(told.running)} partitions at work",
            total=told.rows_total or None,
            completed=done,
            said=_said(told, work, seconds),
        )


def _said(told: Told, work: AtWork, seconds: float) -> str:
    usage = told.totals.usage
    rate = (told.rows_done + work.rows) / seconds if seconds else 0.0
    parts = [
        f"{rate:,.0f} rows/s",
        f"{usage.calls + work.calls:,} calls",
        money(usage.cost_usd + work.cost_usd),
        f"{told.rejected:,} rejected",
    ]
    return ", ".join(parts)


def _status(told: Told, work: AtWork, seconds: float) -> str:
    done = told.rows_done + work.rows
    left = told.rows_total - done
    rate = done / seconds if seconds and done else 0.0
    eta = f", about {lasting(left / rate)} left" if rate and left > 0 else ""
    return f"{done:,} of {told.rows_total:,} rows, {told.detail}; {_said(told, work, seconds)}{eta}"


def line(result: PartitionResult) -> str:
    """One finished partition."""
    counts = result.counts
    if result.outcome == "published":
        extra = [
            f"{getattr(counts, name):,} {name}" for name in ("rejected", "filtered", "pending") if getattr(counts, name)
        ]
        reused = result.reuse.rows_reused + result.reuse.rows_shared
        if reused:
            extra.append(f"{reused:,} without a call")
        more = f" ({', '.join(extra)})" if extra else ""
        return f"✓ {result.partition}: {counts.out:,} rows{more}, {result.usage.calls:,} calls, generation {result.generation}"
    if result.outcome == "unchanged":
        return f"= {result.partition}: unchanged"
    return f"✗ {result.partition}: {result.outcome}: {result.message or result.error}"
