"""How long a provider asks to be left alone: by its headers, else by the words of its error."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_RETRY_AFTER_S = 86_400.0
_EPOCH_S = 1e9  # no wait, but a time
_SKEW_S = 30.0
_DELAY_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DELAY_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", re.I)
_DELAY = re.compile(
    r"(?:\"retryDelay\"\s*:\s*\"|(?:try again|retry|retry after|wait) (?:in |after |for )?)"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|s|m|h)(?![a-z])\s*|\d+(?:\.\d+)?\s*s(?=ec))+)",
    re.I,
)


def wait_of(headers: Mapping[str, str], text: str) -> float | None:
    """What the headers ask for; else the body: Google's RetryInfo, or words like "try again in 1.5s"."""
    asked = retry_after(headers)
    if asked is not None:
        return asked
    found = _DELAY.search(text)
    if found is None:
        return None
    parts = _DELAY_PART.findall(found[1])
    return min(sum(float(amount) * _DELAY_UNITS[unit.lower()] for amount, unit in parts), _MAX_RETRY_AFTER_S)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After` (RFC 9110: seconds or a date; some write the time itself as seconds since 1970)
    or OpenAI's `retry-after-ms`; a day at most. None for what is neither, and for less than nothing."""
    given = {name.lower(): value for name, value in headers.items()}
    millis, value = given.get("retry-after-ms", ""), given.get("retry-after", "")
    if _is_number(millis):
        seconds = float(millis) / 1000
    elif _is_number(value):
        seconds = float(value)
        if seconds > _EPOCH_S:
            seconds -= time.time()
    else:
        when, now = _date(value), datetime.now(UTC)
        if when is None:
            return None
        theirs = _date(given.get("date", ""))
        if theirs is not None and abs((theirs - now).total_seconds()) > _SKEW_S:
            now = theirs  # their clock is not ours
        seconds = (when - now).total_seconds()
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S)


def _date(text: str) -> datetime | None:
    """An HTTP date; one without a zone is UTC, as RFC 9110 has it for asctime."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*\d+(\.\d+)?\s*", text, re.ASCII) is not None
