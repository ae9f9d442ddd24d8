"""The one table that sorts a failed model call: transient (wait), row (reject the row), fatal (stop the run).

Foreign exceptions are sorted here and nowhere else. Our own transport asks `from_status`; SDKs' exceptions are read by
the attributes that they share (`status_code`, `response`, `body`), whatever their class.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from schemas.errors import FatalModelError, ModelError, RowError, TandemError, TransientModelError

TRANSIENT_STATUS = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))
_QUOTA = re.compile(
    r"insufficient_quota|billing|credit balance|quota_exceeded|exceeded your current quota|payment", re.I
)
_CONTEXT = re.compile(
    r"context_length|maximum context|too many tokens|prompt is too long|string_above_max_length", re.I
)
_CONTENT = re.compile(r"content_filter|content_policy|content management policy|safety", re.I)
_MODEL = re.compile(r"model_not_found|does not exist|unknown model|invalid model|not_found_error|no such model", re.I)
_CONNECTION = re.compile(r"connection|connect|timeout|disconnected|unavailable", re.I)


def from_status(
    status: int, text: str, *, headers: Mapping[str, str], model: str, setting: str
) -> ModelError | FatalModelError:
    """An HTTP error answer as one of ours. `setting` names the variable that holds the credential."""
    said = _said(text)
    if status == 401:
        return FatalModelError(f"{model}: the provider refuses the key (401: {said})", hint=f"Check {setting}.")
    if status in (402, 403) or (status == 429 and _QUOTA.search(text)):
        what = "no access" if status == 403 else "the quota or balance is used up"
        return FatalModelError(f"{model}: {what} ({status}: {said})", hint=f"Check the account behind {setting}.")
    if status == 404 or (status == 400 and _MODEL.search(text)):
        return FatalModelError(
            f"{model}: not found at the provider ({status}: {said})", hint="Check model: in the spec."
        )
    if status in TRANSIENT_STATUS or status >= 500:
        return TransientModelError(f"{model}: HTTP {status}: {said}", retry_after=retry_after(headers))
    kind = "bad_request"
    if _CONTEXT.search(text) or status == 413:
        kind = "context_length"
    elif _CONTENT.search(text):
        kind = "content_filter"
    return RowError(f"HTTP {status}: {said}", kind=kind)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After` (RFC 9110: seconds or a date) or OpenAI's `retry-after-ms`."""
    try:
        if millis := headers.get("retry-after-ms"):
            return float(millis) / 1000
        value = headers.get("Retry-After") or headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def classify(exc: BaseException, *, model: str, setting: str) -> TandemError | None:
    """Any exception of a model call as one of ours; None where it is no failure of a call (a bug in a graph)."""
    if isinstance(exc, TandemError):
        return exc
    status = getattr(exc, "status_code", None) or getattr(getattr(exc, "response", None), "status_code", None)
    if isinstance(status, int):
        headers = getattr(getattr(exc, "response", None), "headers", None) or {}
        return from_status(status, str(exc), headers=headers, model=model, setting=setting)
    if isinstance(exc, TimeoutError | asyncio.TimeoutError | ConnectionError):
        return TransientModelError(f"{model}: {type(exc).__name__}")
    if _CONNECTION.search(type(exc).__name__):
        return TransientModelError(f"{model}: {type(exc).__name__}: {_said(str(exc))}")
    return None


def _said(text: str, limit: int = 200) -> str:
    """The provider's own words, short: `error.message` of a JSON body where there is one."""
    match = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    said = " ".join((match[1] if match else text).split())
    said = re.sub(r"(sk|key)-[\w*-]{6,}", "…", said)  # providers echo part of a refused key
    return said[:limit] + ("…" if len(said) > limit else "")


def describe(exc: BaseException) -> dict[str, Any]:
    """What a reject says of its cause."""
    if isinstance(exc, RowError):
        return {"kind": exc.kind, "message": exc.message, "raw": exc.raw}
    return {"kind": type(exc).__name__, "message": str(exc)[:500], "raw": None}
