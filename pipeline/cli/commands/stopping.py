"""Commands that serve until they are stopped."""

import asyncio
import signal


def stop_on_signals() -> asyncio.Event:
    """Return an event set by SIGTERM or SIGINT; Temporal's SDK itself installs no handler."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
