"""Choose the ports of the server: the requested ones, else those of the last start, else free ones.

Ports are kept, so that clients find a server again after a crash, and old links to its UI still work.
"""

import random
import socket
import time
from collections.abc import Mapping

HOST = "127.0.0.1"
NAMES = ("port", "ui_port", "http_port", "metrics_port")

# Below the range that the kernel gives to clients: in it, a client that dials a dead server again and again may be
# given that port as its own, and so connect to itself and keep the server from starting again.
SPARE = range(20_000, 32_000)


class PortTaken(Exception):
    """A requested port is not free."""


def choose(requested: Mapping[str, object], remembered: Mapping[str, object]) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name in NAMES:
        port, last = requested.get(name), remembered.get(name)
        if isinstance(port, int):
            if port in chosen.values() or not is_free(port, patience_s=1.0):
                raise PortTaken(f"{flag(name)} {port} is not free on {HOST}.")
            chosen[name] = port
        elif isinstance(last, int) and last not in chosen.values() and is_free(last, patience_s=1.0):
            chosen[name] = last
        else:
            candidates = (random.choice(SPARE) for _ in range(1_000))
            chosen[name] = next(port for port in candidates if port not in chosen.values() and is_free(port))
    return chosen


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def is_free(port: int, *, patience_s: float = 0.0) -> bool:
    """True if a port is free, with patience for a server that is just ending."""
    deadline = time.monotonic() + patience_s
    while not _can_listen(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: old connections don't count
        try:
            probe.bind((HOST, port))
            probe.listen()
        except (OSError, OverflowError):
            return False
    return True
