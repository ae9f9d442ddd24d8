"""`tandem run`: preflight, estimate, start or join, follow, show the result."""

import asyncio
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from pipeline.cli.commands.work.plan import decision_lines, estimate_lines
from pipeline.cli.environment import command_in
from pipeline.cli.screen.console import InterruptedByUser, Screen, counted
from pipeline.cli.screen.live import PausedByBudget, WatchTimeout, watch
from pipeline.cli.screen.results import show_result
from pipeline.cli.screen.summary import summary
from pipeline.client.connection import Connection, connected, server_starting
from pipeline.client.run import Run
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.embedded.dev import dev_is_up
from pipeline.estimates.preview import Preview, decide, preview_of, selection_of_saved_plan
from pipeline.limits import budget
from pipeline.operations.run import Order, completed_report, final_report, prepare, refuse_held, start, working_on
from pipeline.planning.job import Ready
from pipeline.processes.expendable.import_probe import probe_user_code
from pipeline.processes.supervisor import Processes, processes_for
from pipeline.runs.progress import live_report
from pipeline.runs.report import Report, as_json, exit_code
from pipeline.settings import temporal_configured
from pipeline.stores import Store
from schemas.errors import CallNeeded, UsageError
from schemas.messages.run import RunOptions
from schemas.plan import Selection
from schemas.spec.sections import Spec
from schemas.spec.tiers import with_tier
from schemas.tier import Tier

_ASK_ABOVE_USD = 1.0


@dataclass(frozen=True)
class RunFlags:
    """The arguments of one `tandem run` or `tandem backfill`. Without `spec`, another run's frozen spec is used."""

    spec: Path | None
    selection: Selection
    plan: Path | None = None
    name: str | None = None
    wait: bool = False
    yes: bool = False
    detach: bool = False
    watch_timeout_s: float | None = None
    with_worker: bool = False
    max_cost_usd: float | None = None
    tier: Tier | None = None
    run_options: RunOptions = field(default_factory=RunOptions)
    processes: int | None = None

    def order(self, spec: Spec, base: Path) -> Order:
        return Order(
            spec=spec,
            base=base,
            selection=self.selection,
            spec_path=self.spec,
            name=self.name,
            options=self.run_options,
            max_cost_usd=self.max_cost_usd,
        )


async def run_command(options: RunFlags, screen: Screen) -> int:
    """Run a spec file. Return the exit code."""
    assert options.spec is not None
    return await run_spec(*read_spec(options.spec), options, screen)


async def run_spec(spec: Spec, base: Path, options: RunFlags, screen: Screen) -> int:
    """Run a spec that was read already. Return the exit code."""
    spec = with_tier(spec, options.tier)
    if options.plan is not None:
        selection = await asyncio.to_thread(selection_of_saved_plan, spec, sink_of(spec, base), options.plan)
        options = replace(options, selection=selection)
    if options.detach:
        _check_detach(base)
    _check_fresh(options, screen)
    order = options.order(spec, base)
    done = await asyncio.to_thread(completed_report, order)
    if done is not None:
        store, report = done
        screen.note(f"Run {report.run} is completed; this is its report.")
        return await shown(report, store, spec, screen)
    await probe_user_code(spec, base, screen.fault)
    ready = await asyncio.to_thread(prepare, order)
    decided = await asyncio.to_thread(decide, ready, options.selection)
    await refuse_held(ready, order, decided.to_run)
    async with server_starting(base):
        outlook = await asyncio.to_thread(preview_of, ready, decided)
        _show_plan(ready, outlook, options, screen)
        _refuse_calls(outlook, options.selection)
        _confirm(outlook, options, screen)
        async with connected(base) as connection:
            partitions = {decision.partition for decision in outlook.found.running}
            run = await start(connection, ready, order, partitions, screen.note)
            show_start(run, connection, base, screen)
            if options.detach:
                return _detached(run, base, screen)
            rows = sum(decision.rows for decision in outlook.found.running)
            return await followed(run, connection, ready, rows, options, screen)


async def followed(run: Run, connection: Connection, ready: Ready, rows: int, options: RunFlags, screen: Screen) -> int:
    """Work on a run of `rows` rows if no other worker does, follow it to its end, and show its result."""
    processes = Processes(processes_for(rows, options.processes), screen.fault, ready.spec.limits.max_memory)
    async with working_on(connection, ready.spec.name, processes, with_worker=options.with_worker):
        code = await _watch(run, connection, ready.base, options, screen)
    return await shown(await final_report(run), run.store, ready.spec, screen) if code is None else code


def _check_detach(base: Path) -> None:
    """Raises UsageError if there is no other worker for a detached run."""
    if not temporal_configured() and not dev_is_up(base):
        raise UsageError(
            "--detach needs another worker, and the embedded server has only the one in this command.",
            hint=f"Start one with: {command_in(base, 'dev')}, or set TEMPORAL_ADDRESS and run: tandem worker",
        )


def _check_fresh(options: RunFlags, screen: Screen) -> None:
    if options.selection.fresh and not options.yes and not _can_ask(screen):
        raise UsageError(
            "--fresh pays for every answer again, and this is no terminal to ask for confirmation.", hint="Add --yes."
        )


def _can_ask(screen: Screen) -> bool:
    return sys.stdin.isatty() and screen.live


async def _watch(run: Run, connection: Connection, base: Path, options: RunFlags, screen: Screen) -> int | None:
    """Follow a run to its end. Return the exit code if this command ends first, else None."""
    if run.handle is None:
        return None
    alone = connection.embedded is not None and not dev_is_up(base)
    follow = "the same command resumes it" if alone else f"follow it with: {watch_command(run, base)}"
    try:
        await watch(run, connection.client, screen, timeout_s=options.watch_timeout_s, wait=options.wait)
    except PausedByBudget:
        return await report_budget_pause(run, screen)
    except WatchTimeout:
        screen.note(f"Run {run.request.run} has not ended within {options.watch_timeout_s:g} s; {follow}")
        if screen.json:
            screen.document(as_json(await asyncio.to_thread(live_report, run.store, run.request)))
        return 5
    except asyncio.CancelledError:
        if alone or options.with_worker:
            screen.note("Stopping: waiting for calls in flight, to keep their answers. Ctrl-C again stops at once.")
        raise InterruptedByUser(f"Interrupted. Nothing that was answered is lost; {follow}") from None
    return None


def _show_plan(ready: Ready, outlook: Preview, options: RunFlags, screen: Screen) -> None:
    for text in [*decision_lines(ready, outlook.found.decisions), *estimate_lines(outlook)]:
        screen.note(text)
    for text in budget.notes(ready.spec, options.max_cost_usd):
        screen.note(text)
    if options.selection.fresh and len(outlook.found.running) < len(outlook.found.decisions):
        screen.note("--fresh asks again in the partitions that are run; to run all of them: --reprocess all --fresh")


def _refuse_calls(outlook: Preview, selection: Selection) -> None:
    """Raises CallNeeded if a run without calls surely needs some."""
    least, most = outlook.found.calls
    if selection.no_calls and least:
        missing = counted(most, "call") if least == most else f"{least:,} to {counted(most, 'call')}"
        raise CallNeeded(
            f"--no-calls: not in the journal: {missing}.", hint="Without --no-calls they are made; see: tandem plan"
        )


def _confirm(outlook: Preview, options: RunFlags, screen: Screen) -> None:
    """Ask for confirmation in a terminal before real cost. Raises Abort."""
    if not outlook.found.running or not outlook.estimate.calls[1]:
        return
    cost = outlook.estimate.cost_usd
    expensive = cost is not None and cost[1] > _ASK_ABOVE_USD
    if (expensive or options.selection.fresh) and not options.yes and _can_ask(screen):
        question = "Call the models again for every row, and pay again?" if options.selection.fresh else "Continue?"
        if not typer.confirm(question, err=True):
            raise typer.Abort


def show_start(run: Run, connection: Connection, base: Path, screen: Screen) -> None:
    message = {
        "started": "Run {0} started.",
        "joined": "Run {0} is running already; following it.",
        "resumed": "Run {0} had not finished; resuming it.",
        "replanned": "The stage code has changed since run {0} was planned: planned again, from the journal.",
        "completed": "Run {0} is completed; this is its report.",
    }[run.began]
    screen.about(run.request.run)
    screen.note(message.format(run.request.run))
    if run.handle is None:
        return
    if connection.ui:
        screen.note(
            f"Temporal UI: {connection.ui}/namespaces/{connection.client.namespace}/workflows/{_quoted(run.handle.id)}"
        )
    again = "; after an interrupt the same command resumes it" if connection.embedded else ""
    screen.note(f"Follow it elsewhere: {watch_command(run, base)}{again}")


def watch_command(run: Run, base: Path) -> str:
    return command_in(base, f"runs watch {run.request.run}")


def _quoted(workflow_id: str) -> str:
    from urllib.parse import quote

    return quote(workflow_id, safe="")


def _detached(run: Run, base: Path, screen: Screen) -> int:
    if screen.json:
        screen.document(as_json(live_report(run.store, run.request)))
    else:
        screen.result(f"{run.request.run}: accepted. Follow it with: {watch_command(run, base)}")
    return 0


async def report_budget_pause(run: Run, screen: Screen) -> int:
    """Report a run that has used up its budget; the run is paused, not ended. Return the exit code."""
    report = await asyncio.to_thread(live_report, run.store, run.request, "paused")
    if screen.json:
        screen.fault(report.stop.message if report.stop is not None else "The run is paused.")
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
        if screen.quiet and report.stop is not None:
            screen.fault(report.stop.message)
    return exit_code(report)


async def shown(report: Report, store: Store, spec: Spec, screen: Screen) -> int:
    if screen.json:
        screen.document(as_json(report))
    else:
        await asyncio.to_thread(show_result, report, store, spec, screen)
    return exit_code(report)
