"""Reports about calls to those who listen: the observer of the process, and that of the row."""

import time

from stages import observer
from stages.journal.records import CallRecord
from stages.journal.requests import RequestText
from stages.models.row.scope import RowScope


def call_answered(scope: RowScope, call: CallRecord, prompt: RequestText | None) -> None:
    """Report a call whose answer is paid for."""
    if (seen := observer.current) is not None:
        seen.call_answered(call.model, call.usage, call.cost_usd, (call.by or {}).get("tier", ""))
    if scope.observer is not None:
        scope.observer.call_answered(call, prompt)


def call_failed(scope: RowScope, call: CallRecord, error: str, *, unknown: bool) -> None:
    """Report a request without an answer. `call`: its record, made as it was sent; `unknown`: it may be billed."""
    if (seen := observer.current) is not None:
        seen.call_failed(call.model, unknown=unknown)
    if scope.observer is not None:
        scope.observer.call_failed(call.model, time.time() - call.at, error)


def repair_began(scope: RowScope | None, problem: str) -> None:
    """Report that an answer does not fit."""
    if scope is not None and scope.observer is not None:
        scope.observer.repair_began(problem)
