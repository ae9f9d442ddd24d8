"""The event loop that every process of ours runs."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it runs: it takes a quarter off the CPU of a row."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
