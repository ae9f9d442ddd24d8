"""Pages from templates. Everything that a template shows is escaped; numbers, money, sizes and times look alike."""

import datetime as dt
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from jinja2 import Environment
from markupsafe import Markup
from starlette.responses import HTMLResponse

from pipeline.runs.html import templates

_UNITS = ("B", "kB", "MB", "GB", "TB")
_CELL = 160


@lru_cache(maxsize=1)
def environment() -> Environment:
    found = templates.environment()
    found.filters.update(
        number=number,
        usd=usd,
        size=size,
        moment=moment,
        ago=ago,
        seconds=seconds,
        cell=cell,
        pretty=pretty,
    )
    found.globals.update(link=link)
    return found


def page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(fragment(template, **values))


def fragment(template: str, **values: Any) -> str:
    return environment().get_template(template).render(values)


def link(*path: str, **parameters: Any) -> str:
    """Return the address of a page: its path, and those parameters that say something."""
    query = urlencode({name: value for name, value in parameters.items() if value not in (None, "", False, 0)})
    return "/" + "/".join(quote(part, safe="") for part in path) + (f"?{query}" if query else "")


# Formats -------------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def usd(value: float | None) -> str:
    """Return an amount without its unit: two places from 1 on, four from a cent on, else six."""
    if value is None:
        return "–"
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}" if value >= 0.01 else f"{value:.6f}" if value else "0"


def size(value: int) -> str:
    amount, unit = float(value), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:,.0f} {_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:,.1f} {_UNITS[unit]}"


def seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s" if value < 3600 else f"{value / 3600:.1f} h"


def moment(value: dt.datetime | None) -> Markup | str:
    """Return a time in UTC, which the page's script shows in the reader's zone."""
    if value is None:
        return "–"
    utc = value.astimezone(dt.UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M}"
    )


def ago(value: dt.datetime | None, now: dt.datetime | None = None) -> str:
    """Return the age of something in one unit."""
    if value is None:
        return "never"
    passed = ((now or dt.datetime.now(dt.UTC)) - value).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length):,} {unit} ago"
    return "just now"


def cell(value: Any, longest: int = _CELL) -> str:
    """Return a value as one line of text, cut to a length."""
    text = plain(value)
    text = text if len(text) <= longest * 4 else text[: longest * 4]
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def plain(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):  # published times are UTC, or have no zone
        return value.replace(tzinfo=None).isoformat(
            sep=" ", timespec="milliseconds" if value.microsecond else "seconds"
        )
    if isinstance(value, list | dict | tuple):
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    if isinstance(value, bytes):
        return value.hex()
    return "" if value is None else str(value)


def pretty(value: Any) -> str:
    """Return JSON with indents, of a value or of a text that is JSON; another text as it is."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return str(value)
        if isinstance(value, str):
            return value
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
