"""The expendable process's side of a probe: import the code that a stage names, and return its error."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from pipeline.processes.channel import Message
from schemas.errors import SpecError
from stages.user_code import add_user_folder, load_attribute


async def import_user_code(message: Message) -> Message:
    request = message.data
    return await asyncio.to_thread(
        _import, Path(request["base"]), request["stage"], request["references"], request["graph"]
    )


def _import(base: Path, stage: str, references: Iterable[str], is_graph: bool) -> Message:
    """`is_graph`: the first reference is the stage's graph."""
    from stages.graphs.custom import is_factory  # LangGraph's engine, which other processes may do without

    try:
        add_user_folder(base)
        found = [load_attribute(reference, where=f"stage {stage}") for reference in references]
    except SpecError as exc:
        return Message({"message": exc.message, "hint": exc.hint})
    return Message({"factory": is_graph and is_factory(found[0])})
