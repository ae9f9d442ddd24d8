"""A thread beside a child's event loop: ends the process with its supervisor, names code that blocks."""

import os
import select
import signal
import sys
import threading
import time
from types import FrameType

from pipeline.processes.child.in_flight import InFlight
from stages.execution.guards.blocking import loop_use

INTERRUPT = getattr(signal, "SIGRTMIN", signal.SIGUSR2)  # takes the loop from a node; programs use it for nothing else
_LOOK_EVERY_MS = 250
_BLOCKS_S = 1.0
_LONGEST_ID = 60


class LoopWatch(threading.Thread):
    """The watching thread, started by the thread that runs the loop. `channel` is the socket to the supervisor."""

    def __init__(self, channel: int, in_flight: InFlight) -> None:
        super().__init__(name="tandem-watch", daemon=True)
        self._channel = channel
        self._in_flight = in_flight
        self._watched = threading.get_ident()
        self._turn, self._since = 0, time.monotonic()
        self._named: set[tuple[str, str]] = set()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._channel, 0)  # nothing but its end
        while not poll.poll(_LOOK_EVERY_MS):
            self._in_flight.note_watch_turn()
            self._look()
        os._exit(1)

    def _look(self) -> None:
        """Interrupt a row's code that has held the loop for a second."""
        running, turn = loop_use.running, loop_use.turns
        if running is None or turn != self._turn:
            self._turn, self._since = turn, time.monotonic()
            return
        if time.monotonic() - self._since < _BLOCKS_S:
            return
        node = _node(sys._current_frames().get(self._watched))
        loop_use.blocking.add(running.stage)
        if (running.stage, node) not in self._named:
            self._named.add((running.stage, node))
            print(
                f"stage {running.stage}, node {node}, row {running.id[:_LONGEST_ID]}: blocks the event loop; "
                "write it as `def`, or await. Its nodes run in threads from now on; blocking: true in the stage does "
                "so from the start.",
                file=sys.stderr,
                flush=True,
            )
        loop_use.interrupted_turn = turn
        signal.pthread_kill(self._watched, INTERRUPT)
        self._since = time.monotonic()


def _node(frame: FrameType | None) -> str:
    """The innermost LangGraph node on a stack."""
    while frame is not None:
        config = frame.f_locals.get("config") if frame.f_code.co_name == "ainvoke" else None
        if isinstance(config, dict) and (name := (config.get("metadata") or {}).get("langgraph_node")):
            return str(name)
        frame = frame.f_back
    return "?"
