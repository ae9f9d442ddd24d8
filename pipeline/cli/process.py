"""Run a command's process and end it: one event loop, one exit code, every error a sentence."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import typer
from stamina.instrumentation import LoggingOnRetryHook, set_on_retry_hooks

from pipeline import memory, tracebacks
from pipeline.cli.log_format import log_format_in
from pipeline.cli.metrics import MetricsFlags
from pipeline.cli.screen.console import InterruptedByUser, print_error
from pipeline.processes.child.event_loop import new_loop
from pipeline.telemetry import logs
from schemas.errors import Bug, ConnectionFailed, TandemError, UsageError


def go(
    work: Callable[[], Coroutine[Any, Any, int]],
    *,
    verbose: bool = False,
    works: Literal["", "maybe", "surely"] = "",
    spec: Path | None = None,
    metrics: MetricsFlags | None = None,
) -> None:
    """Run a command to its exit code. `works`: it starts worker processes, which share what is imported by now; one
    that surely does imports what they need first, so that all processes hold it once: for the stages of `spec`, if it
    is known. `metrics`: where they are served, if anywhere."""
    # By default stamina logs by structlog, if installed, and structlog prints to stdout, which is for results.
    set_on_retry_hooks([LoggingOnRetryHook])
    if works:
        from pipeline.processes.fork_server import handle as fork_server

        fork_server.prepare(_uses_of(spec) if works == "surely" else None)
    memory.start_gc()
    silent = logging.CRITICAL if logs.records is None else logging.WARNING
    logs.configure(logging.INFO if verbose else silent)  # after the fork, as it may begin a thread
    # Never closed: the process ends by `os._exit`, and closing would wait for a thread that reads a large file.
    working = (work if metrics is None else metrics.serving(work))()
    raise typer.Exit(asyncio.Runner(loop_factory=new_loop).run(_stopped_by_sigterm(working)))


def _uses_of(spec: Path | None) -> list[str]:
    from pipeline.client.spec_file import uses_in  # and with it what reads specs, which not every command needs

    return ["extract", *(uses_in(spec) if spec is not None else ())]


async def _stopped_by_sigterm(work: Coroutine[Any, Any, int]) -> int:
    """Let SIGTERM end a command as Ctrl-C does; `dev` and `worker` handle both themselves."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def main(app: typer.Typer, arguments: list[str]) -> int:
    """Return the exit code of a command line. Errors are printed as sentences; tracebacks of bugs go to a file."""
    as_json = "--json" in arguments
    if log_format_in(arguments) == "json":  # before anything is printed, complaints about flags included
        logs.begin()
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except TandemError as exc:
        print_error(exc, as_json=as_json)
        return _code(exc, arguments)
    except typer.Exit as exc:
        return exc.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        print_error(InterruptedByUser("Interrupted."), as_json=as_json)
        return InterruptedByUser.exit_code
    except BrokenPipeError:  # `tandem … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:  # noqa: BLE001  whatever it is, the reader gets a sentence and an exit code
        if type(exc).__name__ == "NoArgsIsHelpError":
            print(exc, file=sys.stderr)
            return 2
        error = _usage_error(exc) or _temporal_gone(exc) or _bug(exc)
        print_error(error, as_json=as_json)
        return _code(error, arguments)


def _code(exc: TandemError, arguments: list[str]) -> int:
    """Return the exit code of an error: 1 with `--detailed-exitcode`, where 2 means that there is something to do."""
    return 1 if "--detailed-exitcode" in arguments else exc.exit_code


def _usage_error(exc: Exception) -> UsageError | None:
    """Convert Typer's error for a wrong flag, else None. Its exceptions are click's, or of its own copy of click."""
    if not hasattr(exc, "format_message"):
        return None
    context = getattr(exc, "ctx", None)
    message = " ".join(exc.format_message().split())
    return UsageError(
        message if message.endswith((".", "?", "!")) else f"{message}.",
        hint=f"See: {context.command_path if context else 'tandem'} --help",
    )


def _temporal_gone(exc: Exception) -> ConnectionFailed | None:
    """Convert the error of a Temporal that stops answering in the middle of a command, else None."""
    if type(exc).__name__ != "RPCError" or getattr(exc, "status", None) not in (1, 4, 14):  # cancelled, late, away
        return None
    return ConnectionFailed(f"Temporal does not answer any more: {exc}.", hint="Nothing is lost; try again.")


def _bug(exc: Exception) -> Bug:
    return Bug(
        f"A bug in Tandem ({type(exc).__name__}). Nothing that was answered is lost.",
        hint=f"The traceback is in {tracebacks.keep(exc)}; please report it. The same command resumes the run.",
    )


def end(app: typer.Typer) -> None:
    """Run the command line of this process.

    It ends by `os._exit`: short-lived Temporal clients abort in native code at interpreter exit now and then
    (temporalio/sdk-python#300), which would turn a success into 134.
    """
    code = 70
    try:
        code = main(app, sys.argv[1:])
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # the reader of the pipe left
                code = code or 1
        logging.shutdown()
        if logs.records is not None:
            logs.records.end()
        os._exit(code)
