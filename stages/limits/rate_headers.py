"""Read a provider's limits from its answers: OpenAI's headers, those of servers that copy them, and Anthropic's."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any

from stages.limits.fleet_share import Rates

if TYPE_CHECKING:
    from langchain_core.outputs import ChatResult  # half a second, which commands that only ask need not pay

# The key under which the transport passes limits on, beside the message, which is journalled as it is.
ALLOWED = "tandem_allowed"
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MINUTELY_S = 150.0  # a limit that takes longer to refill is not a limit a minute


def rates_of(headers: Mapping[str, str]) -> Rates | None:
    """Return requests and tokens a minute from `x-ratelimit-limit-…` or `anthropic-ratelimit-…-limit`; None without
    such headers. A limit of another period (a day, for example, by the time that it takes to refill) is ignored."""
    for name in ("x-ratelimit-{1}-{0}", "anthropic-ratelimit-{0}-{1}"):
        if name.format("requests", "limit") in headers or name.format("tokens", "limit") in headers:
            return Rates(_limit(headers, name, "requests"), _limit(headers, name, "tokens"))
    return None


def _limit(headers: Mapping[str, str], name: str, of: str) -> float:
    limit = _number(headers.get(name.format(of, "limit")))
    left = _number(headers.get(name.format(of, "remaining")))
    whole_in = _duration(headers.get(name.format(of, "reset"), ""))
    if limit is None or limit <= 0:
        return inf
    if whole_in is not None and left is not None and left < limit and whole_in * limit / (limit - left) > _MINUTELY_S:
        return inf
    return limit


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None


def _duration(text: str) -> float | None:
    """Parse `1s`, `6m0s`, `120ms`, plain seconds, or a time (Anthropic's), as seconds from now."""
    if (plain := _number(text)) is not None:
        return plain
    if (then := time_of(text)) is not None:
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    parts = _PART.findall(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None


def time_of(text: str) -> datetime | None:
    """Parse a time as Anthropic writes it (RFC 3339); None for anything else."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def allowed_by(result: "ChatResult") -> Rates | None:
    rates: Any = (result.llm_output or {}).get(ALLOWED)
    return rates if isinstance(rates, Rates) else None
