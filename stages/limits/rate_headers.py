"""Read a provider's limits from its answers: OpenAI's headers, and those of servers that copy them."""

import re
from collections.abc import Mapping
from math import inf
from typing import Any

from langchain_core.outputs import ChatResult

from stages.limits.fleet_share import Rates

# The key under which the transport passes limits on, beside the message, which is journalled as it is.
ALLOWED = "tandem_allowed"
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MINUTELY_S = 150.0  # a limit that takes longer to refill is not a limit a minute


def rates_of(headers: Mapping[str, str]) -> Rates | None:
    """Return requests and tokens a minute from `x-ratelimit-limit-…`; None without such headers. A limit of another
    period (a day, for example, by the time that it takes to refill) is ignored."""
    if "x-ratelimit-limit-requests" not in headers and "x-ratelimit-limit-tokens" not in headers:
        return None
    return Rates(_limit(headers, "requests"), _limit(headers, "tokens"))


def _limit(headers: Mapping[str, str], of: str) -> float:
    limit = _number(headers.get(f"x-ratelimit-limit-{of}"))
    left = _number(headers.get(f"x-ratelimit-remaining-{of}"))
    whole_in = _duration(headers.get(f"x-ratelimit-reset-{of}", ""))
    if limit is None or limit <= 0:
        return inf
    if whole_in is not None and left is not None and left < limit and whole_in * limit / (limit - left) > _MINUTELY_S:
        return inf
    return limit


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None


def _duration(text: str) -> float | None:
    """Parse `1s`, `6m0s`, `120ms`, or plain seconds."""
    if (plain := _number(text)) is not None:
        return plain
    parts = _PART.findall(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None


def allowed_by(result: ChatResult) -> Rates | None:
    rates: Any = (result.llm_output or {}).get(ALLOWED)
    return rates if isinstance(rates, Rates) else None
