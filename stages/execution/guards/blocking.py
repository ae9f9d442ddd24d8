"""Which row's code has the loop that all rows share, and how it is taken away from a node that does not return it.

A thread watches the loop; a node that blocks it is run again in a thread (`stages.execution.engine.threaded_nodes`).
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from stages.models.row.scope import RowScope


class NodeBlocks(BaseException):
    """Raised in a node that holds the loop, to restart it in a thread: its model calls are in the journal."""


@dataclass
class LoopUse:
    """The row whose code has the loop, and how many times the code of rows got it. `blocking` are the stages whose
    nodes do not return it."""

    running: RowScope | None = None
    turns: int = 0
    blocking: set[str] = field(default_factory=set)
    interrupted_turn: int | None = None
    process: int = 0  # of the loop; a row may fork, and must not run on in both processes


in_node: ContextVar[bool] = ContextVar("tandem_in_node", default=False)
loop_use = LoopUse()  # one a process, as the loop that runs rows is


def interrupt_node(*_: object) -> None:
    """A signal handler, in the thread of the loop: take the loop away from the node that has it, if it is still the one
    that was found to block. Raises NodeBlocks in it."""
    blocked_turn, loop_use.interrupted_turn = loop_use.interrupted_turn, None
    if blocked_turn is not None and blocked_turn == loop_use.turns and loop_use.running is not None and in_node.get():
        raise NodeBlocks
