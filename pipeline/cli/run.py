"""`tandem run`: preflight, what it would cost, start or join, follow, and what came out."""

import asyncio
import contextlib
import datetime as dt
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import typer

from pipeline import plans, registry, reports
from pipeline.cli.console import Screen, money
from pipeline.cli.results import show_result
from pipeline.cli.watch import WatchTimeout, watch
from pipeline.engine import Engine, engine
from pipeline.estimate import estimate
from pipeline.launch import Run, find_or_start, status_of_run
from pipeline.planning import Decision, Selection
from pipeline.preflight import Ready, preflight, read_spec
from pipeline.reports import Report
from schemas.errors import UsageError
from schemas.messages import Totals

_ASK_ABOVE_USD = 1.0


@dataclass(frozen=True)
class RunOptions:
    """The arguments of one `tandem run`."""

    spec: Path
    selection: Selection
    name: str | None = None
    wait: bool = False
    yes: bool = False
    detach: bool = False
    watch_timeout_s: float | None = None
    with_worker: bool = False


async def run_command(options: RunOptions, screen: Screen) -> int:
    """Run a spec; the exit code."""
    spec, base = read_spec(options.spec)
    ready = await asyncio.to_thread(preflight, spec, base)
    decided = await asyncio.to_thread(_decide, ready, options.selection)
    _say_plan(ready, decided, screen)
    await asyncio.to_thread(_say_cost, ready, decided, options, screen)
    registry.remember(ready, options.spec)
    async with engine(base) as found:
        if options.detach and found.embedded is not None:
            raise UsageError(
                "--detach needs a worker elsewhere, and the embedded server has only the one in this command.",
                hint="Start one with: tandem dev, or configure TEMPORAL_ADDRESS and run: tandem worker",
            )
        run = await find_or_start(
            found, ready, options.selection, options.name, {d.partition for d in decided if d.run}
        )
        _say_run(run, found, screen)
        if options.detach:
            return _detached(run, screen)
        async with _worker(found, ready, options):
            if run.handle is not None:
                try:
                    await watch(run, found.client, screen, timeout_s=options.watch_timeout_s)
                except WatchTimeout:
                    screen.say(f"Still at work after the watch timeout: tandem runs watch {run.request.run}")
                    return 5
        return await _ended(run, ready, screen)


def _decide(ready: Ready, selection: Selection) -> list[Decision]:
    return list(plans.decisions(ready.job, ready.store, selection, dt.datetime.now(dt.UTC)))


def _say_plan(ready: Ready, decided: list[Decision], screen: Screen) -> None:
    """The resolved list, with the reason for each partition, ranges of one reason collapsed."""
    todo = [d for d in decided if d.run]
    rows = sum(d.rows for d in todo)
    screen.say(f"{ready.spec.name}: {len(todo):,} of {len(decided):,} partitions to run, {rows:,} rows.")
    groups: list[list[Decision]] = []
    for decision in decided:
        if groups and (groups[-1][0].run, groups[-1][0].reason) == (decision.run, decision.reason):
            groups[-1].append(decision)
        else:
            groups.append([decision])
    for group in groups[:20]:
        first, last = group[0].partition, group[-1].partition
        span = first if len(group) == 1 else f"{first} … {last} ({len(group):,})"
        screen.say(f"  {'run ' if group[0].run else 'skip'} {span}: {group[0].reason}")
    if len(groups) > 20:
        screen.say(f"  … and {len(groups) - 20} more groups")


def _say_cost(ready: Ready, decided: list[Decision], options: RunOptions, screen: Screen) -> None:
    if not any(d.run for d in decided):
        return
    found = estimate(ready.job, decided)
    cost = "price unknown" if found.cost_usd is None else f"at most about {money(found.cost_usd[1])}"
    screen.say(f"At most {found.calls[1]:,} calls, {cost}; answers in the journal and repeated rows cost nothing.")
    dear = found.cost_usd is not None and found.cost_usd[1] > _ASK_ABOVE_USD
    if (dear or options.selection.fresh) and not options.yes and sys.stdin.isatty() and screen.live:
        question = "Ask for every answer anew, and pay again?" if options.selection.fresh else "Go on?"
        if not typer.confirm(question, err=True):
            raise typer.Abort


def _say_run(run: Run, found: Engine, screen: Screen) -> None:
    said = {
        "started": "Run {0} started.",
        "joined": "Run {0} is at work already; following it.",
        "resumed": "Run {0} had not finished; carrying it on.",
        "completed": "Run {0} is completed; this is its report.",
    }[run.began]
    screen.say(said.format(run.request.run))
    if found.ui and run.handle is not None:
        screen.say(f"Temporal UI: {found.ui}/namespaces/{found.client.namespace}/workflows/{_quoted(run.handle.id)}")
    if run.handle is not None:
        again = "the same command carries it on" if found.embedded else f"tandem runs watch {run.request.run}"
        screen.say(f"If this is interrupted: {again}.")


def _quoted(workflow_id: str) -> str:
    from urllib.parse import quote

    return quote(workflow_id, safe="")


def _detached(run: Run, screen: Screen) -> int:
    if screen.json:
        screen.document(reports.as_json(running_report(run)))
    else:
        screen.result(f"{run.request.run}: accepted. Follow it with: tandem runs watch {run.request.run}")
    return 0


def running_report(run: Run) -> Report:
    """What is known of a run that has not ended."""
    totals = Totals()
    for result in reports.outcomes(run.store, run.request.run):
        totals = totals.with_result(result)
    return Report(
        run=run.request.run,
        pipeline=run.request.pipeline,
        state="running",
        sink=run.store.uri,
        plan="",
        totals=totals,
        failures=(),
        stop=None,
        started_at=run.request.created_at,
        finished_at=None,
    )


@contextlib.asynccontextmanager
async def _worker(found: Engine, ready: Ready, options: RunOptions) -> AsyncIterator[None]:
    """A worker in this process where the embedded server is used, or `--with-worker` asks for one."""
    if found.embedded is None and not options.with_worker:
        yield
        return
    from pipeline.worker import working

    async with working(found.client, found.queue(ready.spec.name)):
        yield


async def _ended(run: Run, ready: Ready, screen: Screen) -> int:
    report = await asyncio.to_thread(reports.load_report, run.store, run.request.run)
    if report is None:
        status = await status_of_run(run)
        said = status.name.lower() if status else "gone"
        raise UsageError(
            f"The run {run.request.run!r} was ended from outside ({said}).", hint="Run it again to carry on."
        )
    if screen.json:
        screen.document(reports.as_json(report))
    else:
        await asyncio.to_thread(show_result, report, ready, screen)
    return reports.exit_code(report)
