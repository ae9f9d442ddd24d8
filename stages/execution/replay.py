"""Run a row's graph from the journal alone, without calling a model."""

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
    """The row needs a call that the journal does not know, and no call is made here."""


async def replay(
    stage: GraphStage, known: Known, rows: Iterable[tuple[str, str, dict[str, Any]]]
) -> dict[str, dict[str, Any] | None]:
    """Return the answers of rows (fingerprint, identity, prepared state) from known calls alone, None for rejects. Rows
    that need another call are left out."""
    answers: dict[str, dict[str, Any] | None] = {}
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
            answers[row] = answer
    return answers


async def _keep_nothing(data: bytes) -> None:
    raise AssertionError("no call is made, so nothing is written")
