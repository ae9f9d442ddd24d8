"""`tandem`: the commands' names and flags of the top level. Groups are beside this file.

Commands import what they need when they run: `tandem --help` must not wait for Polars. Those that may start worker
processes import it before `go`, which forks a process for these: they share what is imported by then.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.arguments import DEFAULT_SPEC, seconds, selection_of
from pipeline.cli.flags import outputs, partitions, rejects, review, runs, schedule, servers, start
from pipeline.cli.flags.forget import forget
from pipeline.cli.flags.help import GroupedCommands
from pipeline.cli.flags.options import (
    AllowSchemaChange,
    FromDate,
    Json,
    Last,
    MaxCost,
    Metrics,
    MetricsLinger,
    Partitions,
    PriceTier,
    Processes,
    Prune,
    Quiet,
    Reprocess,
    SpecArgument,
    ToDate,
    Verbose,
    WatchTimeout,
    Yes,
)
from pipeline.cli.flags.ui import ui
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.process import go
from pipeline.cli.screen.console import Screen
from schemas.errors import UsageError

app = typer.Typer(
    name="tandem",
    cls=GroupedCommands,
    help="Durable LLM enrichment for data pipelines: nothing is paid twice, every row is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(rejects.app, name="rejects")
app.add_typer(runs.app, name="runs")
app.add_typer(schedule.app, name="schedule")
app.add_typer(outputs.app, name="outputs")
app.add_typer(partitions.app, name="partitions")
app.add_typer(review.app, name="review")


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"tandem {version('tandem-pipeline')}")
        raise typer.Exit


@app.callback()
def _tandem(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def run(
    spec: SpecArgument = DEFAULT_SPEC,
    partition: Partitions = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    last: Last = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Run exactly the plan that `plan --out FILE` wrote.")
    ] = None,
    reprocess: Reprocess = "stale",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Call the models again for every row; asks for confirmation.")
    ] = False,
    limit_rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N rows in plan order.")
    ] = None,
    allow_schema_change: AllowSchemaChange = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Start, join or resume the run of this name.")
    ] = None,
    max_cost: MaxCost = None,
    tier: PriceTier = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while the run is paused.")] = False,
    yes: Yes = False,
    watch: Annotated[bool, typer.Option("--watch/--detach", help="Follow the run, or only start it.")] = True,
    watch_timeout: WatchTimeout = None,
    with_worker: Annotated[bool, typer.Option("--with-worker", help="Run a worker in this command too.")] = False,
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    no_calls: Annotated[
        bool, typer.Option("--no-calls", help="Take the journal's answers; end with exit code 3 if some are missing.")
    ] = False,
    prune: Prune = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Enrich what is new or changed, and publish it."""

    from pipeline.cli.commands.work.run import RunFlags, run_command

    async def work() -> int:
        selection = selection_of(
            partition,
            (from_date, to_date, last),
            reprocess,
            limit_rows,
            fresh,
            allow_schema_change,
            prune=prune,
            no_calls=no_calls,
        )
        if no_calls and fresh:
            raise UsageError("--no-calls cannot be combined with --fresh.", hint="--fresh calls for every row.")
        if plan is not None and selection != selection_of(None, (None, None, None)):
            raise UsageError(
                "--plan cannot be combined with selectors, --reprocess, --limit-rows or --fresh.",
                hint="The plan has its own.",
            )
        return await run_command(
            RunFlags(
                spec=spec,
                selection=selection,
                plan=plan,
                name=name,
                wait=wait,
                yes=yes,
                detach=not watch,
                watch_timeout_s=seconds(watch_timeout),
                with_worker=with_worker,
                max_cost_usd=max_cost,
                tier=tier,
                processes=processes,
            ),
            Screen(json=json, quiet=quiet),
        )

    go(work, verbose=verbose, works="surely", spec=spec, metrics=MetricsFlags(metrics, metrics_linger, quiet))


@app.command()
def plan(
    spec: SpecArgument = DEFAULT_SPEC,
    partition: Partitions = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    last: Last = None,
    reprocess: Reprocess = "stale",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the plan to a file for: run --plan FILE.")
    ] = None,
    allow_schema_change: AllowSchemaChange = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="0: nothing to do, 1: an error, 2: something to do.")
    ] = False,
    prune: Prune = False,
    tier: PriceTier = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a run would do and why, and what it would cost. Spends nothing."""

    from pipeline.cli.commands.work.plan import PlanOptions, plan_command

    async def work() -> int:
        selection = selection_of(
            partition, (from_date, to_date, last), reprocess, allow_schema_change=allow_schema_change, prune=prune
        )
        options = PlanOptions(spec=spec, selection=selection, out=out, detailed_exitcode=detailed_exitcode, tier=tier)
        return await plan_command(options, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="maybe")


@app.command()
def backfill(
    spec: SpecArgument = DEFAULT_SPEC,
    from_date: Annotated[str, typer.Option("--from-date", metavar="DATE", help="From this day or time on.")] = ...,  # type: ignore[assignment]
    to_date: Annotated[str, typer.Option("--to-date", metavar="DATE", help="To this day (included) or time.")] = ...,  # type: ignore[assignment]
    reprocess: Reprocess = "missing",
    max_active: Annotated[
        int | None, typer.Option(min=1, max=500, metavar="N", help="Partitions at the same time.")
    ] = None,
    run_backwards: Annotated[bool, typer.Option("--run-backwards", help="Run the newest partition first.")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Start nothing new once a partition has failed.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Start nothing new once N partitions have failed.")
    ] = None,
    canary: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Run N rows over the whole range first, the rest if they pass."),
    ] = None,
    max_cost: MaxCost = None,
    tier: PriceTier = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would run and what it would cost.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Start, join or resume the run of this name.")
    ] = None,
    yes: Yes = False,
    watch: Annotated[bool, typer.Option("--watch/--detach", help="Follow the run, or only start it.")] = True,
    processes: Processes = None,
    metrics: Metrics = None,
    metrics_linger: MetricsLinger = None,
    prune: Prune = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run past partitions: by default those never published."""

    from pipeline.cli.commands.work.plan import PlanOptions, plan_command
    from pipeline.cli.commands.work.run import RunFlags, run_command
    from schemas.messages.run import RunOptions

    async def work() -> int:
        if fail_fast and max_failures is not None:
            raise UsageError("--fail-fast cannot be combined with --max-failures.", hint="It means --max-failures 1.")
        selection = selection_of(None, (from_date, to_date, None), reprocess, prune=prune)
        screen = Screen(json=json, quiet=quiet)
        if dry_run:
            return await plan_command(PlanOptions(spec=spec, selection=selection, tier=tier), screen)
        run_options = RunOptions(
            max_active=max_active,
            backwards=run_backwards,
            max_failures=1 if fail_fast else max_failures,
            canary_rows=canary or 0,
        )
        return await run_command(
            RunFlags(
                spec=spec,
                selection=selection,
                name=name,
                yes=yes,
                detach=not watch,
                max_cost_usd=max_cost,
                tier=tier,
                run_options=run_options,
                processes=processes,
            ),
            screen,
        )

    go(
        work,
        verbose=verbose,
        works="maybe" if dry_run else "surely",
        spec=spec,
        metrics=MetricsFlags(metrics, metrics_linger, quiet),
    )


@app.command()
def check(
    spec: SpecArgument = DEFAULT_SPEC, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Check that a run can succeed. Costs nothing.

    In this order: spec, graphs, source, sink, keys, Temporal.
    """

    from pipeline.cli.commands.work.check import check_command

    async def work() -> int:
        return await check_command(spec, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="maybe")


@app.command(name="try")
def try_(
    spec: SpecArgument = DEFAULT_SPEC,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="The number of rows.")] = 5,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="Show only this stage.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="KEY", help="Rows of this partition.")] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Print the stage's graph as Mermaid.")] = False,
    tier: PriceTier = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a few rows and show each step. Publishes nothing.

    Answers go to the journal, so that a run does not pay for them again.
    """

    from pipeline.cli.commands.work.try_ import TryOptions, try_command

    async def work() -> int:
        options = TryOptions(spec=spec, rows=rows, stage=stage, partition=partition, graph=graph, tier=tier)
        return await try_command(options, Screen(json=json, quiet=quiet))

    go(work, verbose=verbose, works="maybe")


app.command()(start.demo)
app.command()(start.init)
app.command()(start.schema)
app.command()(forget)
app.command()(ui)
app.command()(servers.dev)
app.command()(servers.worker)
