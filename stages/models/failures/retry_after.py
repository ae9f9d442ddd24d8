"""The wait that a provider requests: in its headers, else in the text of its error, else until its limits refill."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from stages.limits.rate_headers import time_of

_MAX_RETRY_AFTER_S = 86_400.0
_EPOCH_S = 1e9  # a larger number is a time, not a wait
_SKEW_S = 30.0
_DELAY_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DELAY_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", re.I)
_DELAY = re.compile(
    r"(?:\"retryDelay\"\s*:\s*\"|(?:try again|retry|retry after|wait) (?:in |after |for )?)"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|s|m|h)(?![a-z])\s*|\d+(?:\.\d+)?\s*s(?=ec))+)",
    re.I,
)


def wait_of(headers: Mapping[str, str], text: str) -> float | None:
    """Return the wait in seconds that the headers request; else the body: Google's RetryInfo, or words like "try again
    in 1.5s"; else until the limits are refilled that Anthropic's headers call used up."""
    from_headers = retry_after(headers)
    if from_headers is not None:
        return from_headers
    found = _DELAY.search(text)
    if found is None:
        return _until_refilled(headers)
    parts = _DELAY_PART.findall(found[1])
    return min(sum(float(amount) * _DELAY_UNITS[unit.lower()] for amount, unit in parts), _MAX_RETRY_AFTER_S)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by `Retry-After` (RFC 9110: seconds or a date; some write the time itself as seconds
    since 1970) or OpenAI's `retry-after-ms`; a day at most. None for anything else."""
    lower = {name.lower(): value for name, value in headers.items()}
    millis, value = lower.get("retry-after-ms", ""), lower.get("retry-after", "")
    if _is_number(millis):
        seconds = float(millis) / 1000
    elif _is_number(value):
        seconds = float(value)
        if seconds > _EPOCH_S:
            seconds -= time.time()
    else:
        date, now = _date(value), datetime.now(UTC)
        if date is None:
            return None
        server_now = _date(lower.get("date", ""))
        if server_now is not None and abs((server_now - now).total_seconds()) > _SKEW_S:
            now = server_now  # the server's clock differs from ours
        seconds = (date - now).total_seconds()
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S)


def _until_refilled(headers: Mapping[str, str]) -> float | None:
    lower = {name.lower(): value for name, value in headers.items()}
    used_up = [
        then
        for of in ("requests", "tokens", "input-tokens", "output-tokens")
        if lower.get(f"anthropic-ratelimit-{of}-remaining") == "0"
        and (then := time_of(lower.get(f"anthropic-ratelimit-{of}-reset", ""))) is not None
    ]
    if not used_up:
        return None
    return min(max(0.0, (max(used_up) - datetime.now(UTC)).total_seconds()), _MAX_RETRY_AFTER_S)


def _date(text: str) -> datetime | None:
    """Parse an HTTP date; one without a zone is UTC, as in RFC 9110 for asctime."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*\d+(\.\d+)?\s*", text, re.ASCII) is not None
