"""The common part of every activity: heartbeats, errors converted to Temporal's, a cap on the result's size."""

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError

from pipeline.tracebacks import keep_here
from pipeline.workflows.policies import HEARTBEAT_EVERY
from schemas.errors import Bug, TandemError
from schemas.messages.base import MAX_PAYLOAD_BYTES
from schemas.messages.batch import Heartbeat, ModelLoad, largest
from stages.models.row.scope import Tally


def as_application_error(exc: TandemError) -> ApplicationError:
    """Convert an error to Temporal's: the class name becomes the type, by which the workflow decides. Without row text
    and stack, as histories are plain text."""
    return ApplicationError(exc.message, exc.hint, type=exc.code, non_retryable=not exc.retryable)


log = logging.getLogger("tandem.activities")
S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R", bound=BaseModel)
_LONGEST_REASON = 500
_BUG_ATTEMPTS = 3  # an unknown exception may be the machine's fault; three times is a bug of Tandem


def activity_boundary(
    work: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Wrap an activity: convert errors to Temporal's, refuse results above the cap."""

    @functools.wraps(work)
    async def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = await work(self, *args, **kwargs)
        except TandemError as exc:
            log.warning("%s: %s", exc.code, exc)
            raise as_application_error(exc) from None
        except Exception as exc:
            # A foreign exception's message may hold a row's text, and histories are plain text: send its class only.
            log.exception("%s failed", activity.info().activity_type)
            last = activity.info().attempt >= _BUG_ATTEMPTS
            kept = f", a bug of Tandem; please report it with its traceback: {keep_here(exc)}" if last else ""
            raise ApplicationError(
                f"{type(exc).__name__} in {activity.info().activity_type}{kept}",
                type=Bug.__name__,
                non_retryable=last,
            ) from None
        size = len(result.model_dump_json())
        if size > MAX_PAYLOAD_BYTES:
            raise ApplicationError(
                f"a result of {size:,} bytes; {MAX_PAYLOAD_BYTES:,} are allowed",
                type="ResultTooLarge",
                non_retryable=True,
            )
        return result

    return cast(Callable[Concatenate[S, P], Coroutine[Any, Any, R]], run)


@dataclass
class ActivityProgress:
    """The progress of an activity, sent with each heartbeat: rows, calls, USD, the reason of a wait, and the loads of
    the process."""

    rows: int = 0
    tally: Tally = field(default_factory=Tally)
    waiting: Callable[[], str] = lambda: ""
    loads: Callable[[], tuple[ModelLoad, ...]] = tuple
    spool: str = ""

    def note(self, rows: int) -> None:
        self.rows += rows

    def message(self) -> Heartbeat:
        return Heartbeat(
            rows=self.rows,
            calls=self.tally.calls,
            cost_usd=round(self.tally.cost_usd, 6),
            waiting=self.waiting()[:_LONGEST_REASON],
            spool=self.spool,
            rejects=largest(self.tally.rejects),
            failed_calls=largest(self.tally.failed_calls),
            process=os.getpid(),
            loads=self.loads(),
        )


@asynccontextmanager
async def heartbeating(*, spool: str = "") -> AsyncIterator[ActivityProgress]:
    """Send heartbeats in the background, so that a long thread or a slow model does not look like a dead worker."""
    progress = ActivityProgress(spool=spool)

    async def forever() -> None:
        while True:
            last = progress.message()
            # One by one first, as clients of earlier versions read them.
            activity.heartbeat(last.rows, last.calls, last.cost_usd, last)
            await asyncio.sleep(HEARTBEAT_EVERY.total_seconds())

    task = asyncio.create_task(forever())
    try:
        yield progress
    finally:
        task.cancel()
