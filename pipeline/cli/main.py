"""`tandem`: the commands' names and flags (`../shared/cli.md` is the promise), and how a process ends.

Commands import what they need when they run: `tandem --help` must not wait for Polars.
"""

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import Interrupted, Screen, print_error
from schemas.errors import ConnectionFailed, TandemError, UsageError

app = typer.Typer(
    name="tandem",
    help="Durable LLM enrichment for data pipelines: nothing is paid twice, every row is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
runs_app = typer.Typer(help="Runs: list, show, watch, pause, resume, cancel.", no_args_is_help=True)
outputs_app = typer.Typer(help="The published dataset: ls, files, head.", no_args_is_help=True)
rejects_app = typer.Typer(help="Rejected rows: ls, show, retry.", no_args_is_help=True)
app.add_typer(rejects_app, name="rejects")
app.add_typer(runs_app, name="runs")
app.add_typer(outputs_app, name="outputs")

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The pipeline's YAML file.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name, or pipeline/name.")]
KeyArgument = Annotated[str | None, typer.Argument(metavar="KEY", help="A partition key: day=2026-11-01.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing; errors are told all the same.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show logs.")]
Partitions = Annotated[list[str] | None, typer.Option("--partition", metavar="KEY", help="Only this one (repeatable).")]
FromDate = Annotated[str | None, typer.Option("--from-date", metavar="DATE", help="From this day or time on.")]
ToDate = Annotated[str | None, typer.Option("--to-date", metavar="DATE", help="To this day (included) or time.")]
Last = Annotated[str | None, typer.Option("--last", metavar="30d", help="The last days, today included.")]
Reprocess = Annotated[str, typer.Option("--reprocess", metavar="missing|failed|stale|all", help="What runs again.")]
DEFAULT_SPEC = Path("tandem.yaml")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"tandem {version('tandem-pipeline')}")
        raise typer.Exit


@app.callback()
def _tandem(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, exit.")] = False,
) -> None: ...


def _go(work: Callable[[], Coroutine[Any, Any, int]], *, verbose: bool = False) -> None:
    """Run a command to its exit code."""
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(asctime)s %(name)s %(message)s")
    # Never closed: the process ends by `os._exit`, and closing would wait for a thread that reads a large file.
    raise typer.Exit(asyncio.Runner(loop_factory=_new_loop).run(_stopped_by_sigterm(work())))


async def _stopped_by_sigterm(work: Coroutine[Any, Any, int]) -> int:
    """SIGTERM ends a command as Ctrl-C does; `dev` and `worker` handle both themselves."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it runs: it takes a quarter off the CPU of a row."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@app.command()
def run(
    spec: SpecArgument = DEFAULT_SPEC,
    partition: Partitions = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    last: Last = None,
    reprocess: Reprocess = "stale",
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask for every answer anew; asks first.")] = False,
    limit_rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N rows in plan order.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Start, join or resume the run of this name.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while the run is paused.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    watch: Annotated[bool, typer.Option("--watch/--detach", help="Follow it, or only start it.")] = True,
    watch_timeout: Annotated[str | None, typer.Option(metavar="D", help="Stop watching after 30m, 2h, …")] = None,
    with_worker: Annotated[bool, typer.Option("--with-worker", help="Work on it in this process too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Enrich what is new or changed, and publish it."""

    async def work() -> int:
        from pipeline.cli.run import RunOptions, run_command

        return await run_command(
            RunOptions(
                spec=spec,
                selection=_selection(partition, from_date, to_date, last, reprocess, limit_rows, fresh),
                name=name,
                wait=wait,
                yes=yes,
                detach=not watch,
                watch_timeout_s=_seconds(watch_timeout),
                with_worker=with_worker,
            ),
            Screen(json=json, quiet=quiet),
        )

    _go(work, verbose=verbose)


def _selection(
    partition: list[str] | None,
    from_date: str | None,
    to_date: str | None,
    last: str | None,
    reprocess: str,
    limit_rows: int | None,
    fresh: bool,
) -> Any:
    from pipeline.planning import Selection

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
    )


def _seconds(duration: str | None) -> float | None:
    from schemas.durations import parse_duration

    if duration is None:
        return None
    try:
        return parse_duration(duration).total_seconds()
    except ValueError as exc:
        raise UsageError(f"--watch-timeout {duration}: {exc}.") from None


@app.command()
def check(
    spec: SpecArgument = DEFAULT_SPEC, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Look for what could go wrong in a run. Costs nothing.

    In this order: spec, graphs, source, sink, keys, Temporal.
    """

    async def work() -> int:
        from pipeline.cli.check import check_command

        return await check_command(spec, Screen(json=json, quiet=quiet))

    _go(work, verbose=verbose)


@app.command(name="try")
def try_(
    spec: SpecArgument = DEFAULT_SPEC,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="How many rows.")] = 5,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="Show only this stage.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="KEY", help="Rows of this partition.")] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Print the stage's graph as Mermaid.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a few rows and show each step. Publishes nothing.

    Answers go to the journal, so that a run does not pay for them again.
    """

    async def work() -> int:
        from pipeline.cli.try_ import TryOptions, try_command

        options = TryOptions(spec=spec, rows=rows, stage=stage, partition=partition, graph=graph)
        return await try_command(options, Screen(json=json, quiet=quiet))

    _go(work, verbose=verbose)


@app.command()
def demo(
    rows: Annotated[int, typer.Option(min=1, max=2000, metavar="N", help="How many of the bundled rows.")] = 2000,
    dir: Annotated[Path, typer.Option(metavar="DIR", help="Where to put the example and its output.")] = Path(
        "tandem-demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the bundled example. Needs no key and no set-up."""

    async def work() -> int:
        from pipeline.cli.demo import demo_command

        return await demo_command(rows, dir, Screen(json=json, quiet=quiet))

    _go(work, verbose=verbose)


@app.command()
def init(
    dir: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the pipeline.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Your table: CSV, NDJSON or Parquet.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="provider:name; by default OpenAI where its key is set.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a small commented pipeline that runs as it is."""

    async def work() -> int:
        from pipeline.cli.init import init_command

        return await asyncio.to_thread(init_command, dir, from_file, model, Screen(quiet=quiet))

    _go(work)


@app.command()
def dev(
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Temporal's port.")] = None,
    ui_port: Annotated[int | None, typer.Option(metavar="PORT", help="The UI's port.")] = None,
    verbose: Verbose = False,
) -> None:
    """Embedded Temporal, its UI and a worker, until Ctrl-C."""

    async def work() -> int:
        from pipeline.cli.serve import dev_command

        return await dev_command(port, ui_port, Screen())

    _go(work, verbose=verbose)


@app.command()
def worker(
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="How many worker processes.")] = 1,
    task_queue: Annotated[str | None, typer.Option(metavar="Q", help="The task queue.")] = None,
    verbose: Verbose = False,
) -> None:
    """A worker for the configured Temporal. SIGTERM drains it."""

    async def work() -> int:
        from pipeline.cli.serve import worker_command

        return await worker_command(processes, task_queue, Screen())

    _go(work, verbose=verbose)


# runs --------------------------------------------------------------------------------------------------------------


@runs_app.command(name="list")
def runs_list(json: Json = False) -> None:
    """All runs of the pipelines here, newest first."""

    async def work() -> int:
        from pipeline.cli.runs import list_command

        return await list_command(Screen(json=json))

    _go(work)


@runs_app.command(name="show")
def runs_show(run: RunArgument = None, json: Json = False) -> None:
    """What became of a run; the latest when none is named."""

    async def work() -> int:
        from pipeline.cli.runs import show_command

        return await show_command(run, Screen(json=json))

    _go(work)


@runs_app.command(name="watch")
def runs_watch(
    run: RunArgument = None,
    watch_timeout: Annotated[str | None, typer.Option(metavar="D", help="Stop watching after 30m, 2h, …")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a run to its end. Interrupting this leaves the run alive."""

    async def work() -> int:
        from pipeline.cli.runs import watch_command

        return await watch_command(run, _seconds(watch_timeout), Screen(json=json, quiet=quiet))

    _go(work)


@runs_app.command(name="pause")
def runs_pause(
    run: RunArgument = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown to whoever looks.")] = "paused by hand",
) -> None:
    """Start nothing new in a run until it is resumed; batches at work finish."""

    async def work() -> int:
        from pipeline.cli.runs import signal_command

        return await signal_command(run, "pause", reason, Screen())

    _go(work)


@runs_app.command(name="resume")
def runs_resume(run: RunArgument = None) -> None:
    """Let a paused run go on."""

    async def work() -> int:
        from pipeline.cli.runs import signal_command

        return await signal_command(run, "resume", None, Screen())

    _go(work)


@runs_app.command(name="cancel")
def runs_cancel(run: RunArgument = None) -> None:
    """End a run: what is published stays, nothing more is."""

    async def work() -> int:
        from pipeline.cli.runs import cancel_command

        return await cancel_command(run, Screen())

    _go(work)


# outputs -----------------------------------------------------------------------------------------------------------


@outputs_app.command(name="ls")
def outputs_ls(spec: SpecArgument = DEFAULT_SPEC, json: Json = False) -> None:
    """What is published: a line a partition."""

    async def work() -> int:
        from pipeline.cli.outputs import ls_command

        return await asyncio.to_thread(ls_command, spec, Screen(json=json))

    _go(work)


@outputs_app.command(name="files")
def outputs_files(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """The exact objects of the committed dataset, one a line."""

    async def work() -> int:
        from pipeline.cli.outputs import files_command

        return await asyncio.to_thread(files_command, spec, key, Screen(json=json))

    _go(work)


@outputs_app.command(name="head")
def outputs_head(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="How many rows.")] = 10,
    json: Json = False,
) -> None:
    """The first rows of the dataset."""

    async def work() -> int:
        from pipeline.cli.outputs import head_command

        return await asyncio.to_thread(head_command, spec, key, rows, Screen(json=json))

    _go(work)


# rejects -----------------------------------------------------------------------------------------------------------


@rejects_app.command(name="ls")
def rejects_ls(spec: SpecArgument = DEFAULT_SPEC, key: KeyArgument = None, json: Json = False) -> None:
    """Rejected rows by class, each with a sample."""

    async def work() -> int:
        from pipeline.cli.rejects import ls_command

        return await asyncio.to_thread(ls_command, spec, key, Screen(json=json))

    _go(work)


@rejects_app.command(name="show")
def rejects_show(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    row: Annotated[str | None, typer.Option(metavar="VALUE", help="Only the row with this key.")] = None,
    json: Json = False,
) -> None:
    """The rejected rows, why, and what the model answered."""

    async def work() -> int:
        from pipeline.cli.rejects import show_command

        return await asyncio.to_thread(show_command, spec, key, row, Screen(json=json))

    _go(work)


@rejects_app.command(name="retry")
def rejects_retry(
    spec: SpecArgument = DEFAULT_SPEC,
    key: KeyArgument = None,
    error: Annotated[str | None, typer.Option(metavar="CLASS", help="Only rejects of this class.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Ask again for rejected rows, and only for them; publishes a new generation with those that are healed."""

    async def work() -> int:
        from pipeline.cli.rejects import RetryOptions, retry_command

        options = RetryOptions(spec=spec, key=key, error=error, yes=yes)
        return await retry_command(options, Screen(json=json, quiet=quiet))

    _go(work, verbose=verbose)


# The end of a process ----------------------------------------------------------------------------------------------


class Bug(TandemError):
    """Anything that is neither an error of ours nor the command line's."""

    exit_code = 70


def main(arguments: list[str]) -> int:
    """The exit code of a command line. Every error is a sentence; a traceback is a bug of ours, and goes to a file."""
    as_json = "--json" in arguments
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except TandemError as exc:
        print_error(exc, as_json=as_json)
        return exc.exit_code
    except typer.Exit as exc:
        return exc.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        print_error(Interrupted("Interrupted."), as_json=as_json)
        return Interrupted.exit_code
    except BrokenPipeError:  # `tandem … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:  # noqa: BLE001  whatever it is, the reader gets a sentence and an exit code
        if type(exc).__name__ == "NoArgsIsHelpError":
            print(exc, file=sys.stderr)
            return 2
        found = _usage_error(exc) or _away(exc) or _bug(exc)
        print_error(found, as_json=as_json)
        return found.exit_code


def _usage_error(exc: Exception) -> UsageError | None:
    """What Typer says of a wrong flag, in our form. Its exceptions are click's, or those of a copy of its own."""
    if not hasattr(exc, "format_message"):
        return None
    context = getattr(exc, "ctx", None)
    said = " ".join(exc.format_message().split())
    return UsageError(
        said if said.endswith((".", "?", "!")) else f"{said}.",
        hint=f"See: {context.command_path if context else 'tandem'} --help",
    )


def _away(exc: Exception) -> ConnectionFailed | None:
    """Temporal, when it stops answering in the middle of a command."""
    if type(exc).__name__ != "RPCError" or getattr(exc, "status", None) not in (1, 4, 14):  # cancelled, late, away
        return None
    return ConnectionFailed(f"Temporal does not answer any more: {exc}.", hint="Nothing is lost; try again.")


def _bug(exc: Exception) -> Bug:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="tandem-crash-", suffix=".txt", delete=False) as file:
        traceback.print_exception(exc, file=file)
    return Bug(
        f"A bug in Tandem ({type(exc).__name__}). Nothing that was answered is lost.",
        hint=f"The traceback is in {file.name}; please report it. The same command carries the run on.",
    )


def entry() -> None:
    """Ends by `os._exit`: short-lived Temporal clients abort in native code at interpreter exit now and then
    (temporalio/sdk-python#300), which would turn a success into 134."""
    code = 70
    try:
        code = main(sys.argv[1:])
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # the reader of the pipe left
                code = code or 1
        logging.shutdown()
        os._exit(code)


if __name__ == "__main__":
    entry()
