"""Tools as a user writes them, for the tests of `agent`."""

import asyncio
import time
from typing import Annotated, Any

from langchain_core.tools import tool
from pydantic import Field

CALLS: list[tuple[str, Any]] = []
HANG_AT: list[int] = []


def stock(item: str) -> int:
    """How many of an item are in stock."""
    CALLS.append(("stock", item))
    return len(item)


async def price(item: str, amount: Annotated[int, Field(ge=1, le=100)] = 1) -> dict[str, Any]:
    """The price of an item."""
    CALLS.append(("price", (item, amount)))
    if len(CALLS) in HANG_AT:
        await asyncio.Event().wait()
    return {"item": item, "euros": 7 * amount}


@tool
def broken(item: str) -> str:
    """Look an item up."""
    CALLS.append(("broken", item))
    raise RuntimeError(f"no connection for {item}")


def slow(item: str) -> str:
    """Wait for an item."""
    time.sleep(0.3)
    return item


def essay(words: int) -> str:
    """So many words."""
    return "word " * words


def untyped():  # type: ignore[no-untyped-def]
    return 1


NOT_A_TOOL = 3


def look_up(query: str) -> str:
    """What is known about something."""
    CALLS.append(("look_up", query))
    return "nothing much"
