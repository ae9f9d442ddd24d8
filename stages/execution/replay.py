"""Run a row's graph from the journal alone, without calling a model or a tool."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import TandemError
from stages.contract import GraphStage
from stages.execution.guards.row_guard import RowCode, guard_rows
from stages.journal.known import Known
from stages.journal.writer import CallFinder, Journal
from stages.models.row.scope import RowScope, Tally, current

_NEVER_S, _MOST = 1e9, 1 << 60  # calls that are found are not written anywhere
_LONGEST_S = 10.0  # that a row may take which makes no call


class WouldAsk(TandemError):
    """The row needs a call that the journal does not know, and no call is made here."""


@dataclass
class Replayed:
    """What the journal alone shows of rows, by fingerprint. `answers`: they need no call; None for rejects. `asking`:
    their next call of a model is not known. Of other rows nothing is known: they need a tool first, or take too
    long."""

    answers: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)


async def replay(
    stage: GraphStage, known: Known, rows: Iterable[tuple[str, str, dict[str, Any]]], finder: CallFinder | None = None
) -> Replayed:
    """Run rows (fingerprint, identity, prepared state) with known calls alone, and those that `finder` has."""
    found = Replayed()
    journal = Journal(
        _keep_nothing, known=known, flush_s=_NEVER_S, flush_records=_MOST, flush_bytes=_MOST, finder=finder
    )
    loop = asyncio.get_running_loop()
    guard_rows(loop)
    last_state = stage.direct or _by_the_engine(stage)
    for row, id, prepared in rows:
        scope = RowScope(
            id=id,
            run="",
            batch=0,
            journal=journal,
            tally=Tally(),
            in_flight={},
            loop=loop,
            halted=lambda: WouldAsk("a call is not known"),
            own="" if stage.spec.share else row,
        )
        token = current.set(scope)
        answer, is_over = None, True
        try:
            async with asyncio.timeout(_LONGEST_S):
                state = await RowCode(last_state(prepared), scope, loop)
            answer = None if state is None else stage.output_of(state)
        except TimeoutError:
            is_over = False
        except Exception:  # noqa: BLE001  a user's graph may raise anything: a reject, unless it was for want of a call
            answer = None
        finally:
            current.reset(token)
            scope.close()
        if isinstance(scope.stop, WouldAsk) and not scope.awaits_tool:
            found.asking.add(row)
        elif scope.stop is None and is_over:
            found.answers[row] = answer
    journal.discard()
    return found


def _by_the_engine(stage: GraphStage) -> Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any] | None]]:
    """Return what runs the stage's graph to its last state; None where it asks a person."""
    from stages.execution.engine.interrupts import interrupts_of
    from stages.execution.engine.row_graph import config_of, graph_of_rows

    graph, config = graph_of_rows(stage), config_of(stage)

    async def last_state(prepared: dict[str, Any]) -> dict[str, Any] | None:
        state: dict[str, Any] = await graph.ainvoke(prepared, config, context=stage.context)
        return None if interrupts_of(state) else state

    return last_state


async def _keep_nothing(data: bytes) -> None:
    raise AssertionError("a replay writes nothing")
