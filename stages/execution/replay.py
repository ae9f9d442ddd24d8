"""A row's graph run from the journal alone: what it would ask next, without asking."""

import asyncio
from collections.abc import Iterable
from typing import Any

from schemas.errors import RowError, TandemError
from stages.contract import GraphStage
from stages.execution.row_graph import config_of
from stages.journal.known import Known
from stages.journal.writer import Journal
from stages.models.row_scope import RowScope, Tally, current


class WouldAsk(TandemError):
    """Nothing is paid for here: the row needs a call that the journal does not know."""


async def replay(
    stage: GraphStage, known: Known, rows: Iterable[tuple[str, str, dict[str, Any]]]
) -> dict[str, dict[str, Any] | None]:
    """What rows (fingerprint, identity, prepared state) come to with known calls alone: answers, None for rejects.
    Those that would have to ask are left out."""
    found: dict[str, dict[str, Any] | None] = {}
    journal = Journal(_keep_nothing, known=known)
    for row, id, prepared in rows:
        scope = RowScope(
            id=id,
            run="",
            batch=0,
            journal=journal,
            tally=Tally(),
            in_flight={},
            loop=asyncio.get_running_loop(),
            halted=lambda: WouldAsk("a call is not known"),
        )
        token = current.set(scope)
        answer = None
        try:
            state = await stage.graph.ainvoke(prepared, config_of(stage), context=stage.context)
            answer = stage.output_of(state)
        except (RowError, WouldAsk):
            pass
        finally:
            current.reset(token)
            scope.close()
        if scope.stop is None:
            found[row] = answer
    return found


async def _keep_nothing(data: bytes) -> None:
    raise AssertionError("nothing is asked, so nothing is written")
