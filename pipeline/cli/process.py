"""How a command's process runs and ends: one event loop, one exit code, every error a sentence."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import typer
from stamina.instrumentation import LoggingOnRetryHook, set_on_retry_hooks

from pipeline import tracebacks
from pipeline.cli.screen.console import InterruptedByUser, print_error
from pipeline.processes.child.event_loop import new_loop
from schemas.errors import Bug, ConnectionFailed, TandemError, UsageError


def go(work: Callable[[], Coroutine[Any, Any, int]], *, verbose: bool = False, works: bool = False) -> None:
    """Run a command to its exit code. `works`: it may need worker processes."""
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(asctime)s %(name)s %(message)s")
    # By default stamina tells structlog, where that is installed, and structlog prints to stdout: that is for results.
    set_on_retry_hooks([LoggingOnRetryHook])
    if works:
        from pipeline.processes import fork_server

        fork_server.prepare()
    # Never closed: the process ends by `os._exit`, and closing would wait for a thread that reads a large file.
    raise typer.Exit(asyncio.Runner(loop_factory=new_loop).run(_stopped_by_sigterm(work())))


async def _stopped_by_sigterm(work: Coroutine[Any, Any, int]) -> int:
    """SIGTERM ends a command as Ctrl-C does; `dev` and `worker` handle both themselves."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def main(app: typer.Typer, arguments: list[str]) -> int:
    """The exit code of a command line. Every error is a sentence; a traceback is a bug of ours, and goes to a file."""
    as_json = "--json" in arguments
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
        found = _usage_error(exc) or _away(exc) or _bug(exc)
        print_error(found, as_json=as_json)
        return _code(found, arguments)


def _code(exc: TandemError, arguments: list[str]) -> int:
    """Where 2 means that there is something to do, every error is 1."""
    return 1 if "--detailed-exitcode" in arguments else exc.exit_code


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
    return Bug(
        f"A bug in Tandem ({type(exc).__name__}). Nothing that was answered is lost.",
        hint=f"The traceback is in {tracebacks.keep(exc)}; please report it. The same command carries the run on.",
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
        os._exit(code)
