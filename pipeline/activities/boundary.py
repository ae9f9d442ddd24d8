"""What every activity does beside its work: it beats, tells our errors as Temporal's, and caps what it returns."""

import asyncio
import functools
import logging
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
from schemas.messages.batch import Heartbeat
from stages.models.row_scope import Tally


def as_application_error(exc: TandemError) -> ApplicationError:
    """The error as Temporal knows it: its class name as type, so that the workflow decides by name; no row text, and
    no stack of ours (histories are plain text)."""
    return ApplicationError(exc.message, exc.hint, type=exc.code, non_retryable=not exc.retryable)


log = logging.getLogger("tandem.activities")
S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R", bound=BaseModel)
_LONGEST_REASON = 500
_BUG_ATTEMPTS = 3  # an unknown exception may be the machine's; three times the same is ours


def activity_boundary(
    work: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Our errors as Temporal's, results within the cap."""

    @functools.wraps(work)
    async def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = await work(self, *args, **kwargs)
        except TandemError as exc:
            log.warning("%s: %s", exc.code, exc)
            raise as_application_error(exc) from None
        except Exception as exc:
            # The message of a foreign exception may hold a row's text, and histories are plain: tell its class only.
            log.exception("%s failed", activity.info().activity_type)
            last = activity.info().attempt >= _BUG_ATTEMPTS
            kept = f", a bug of Tandem's; please report it with its traceback: {keep_here(exc)}" if last else ""
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
    """What an activity has done so far, told with each heartbeat: rows, calls, USD, and what it waits for."""

    rows: int = 0
    tally: Tally = field(default_factory=Tally)
    waiting: Callable[[], str] = lambda: ""
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
        )


@asynccontextmanager
async def heartbeating(*, spool: str = "") -> AsyncIterator[ActivityProgress]:
    """Beat in the background, so that a long thread or a slow model is never taken for a dead worker."""
    beat = ActivityProgress(spool=spool)

    async def forever() -> None:
        while True:
            activity.heartbeat(beat.message())
            await asyncio.sleep(HEARTBEAT_EVERY.total_seconds())

    task = asyncio.create_task(forever())
    try:
        yield beat
    finally:
        task.cancel()
