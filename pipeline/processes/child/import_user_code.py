"""The expendable process's side of a probe: import the code that a stage names, and return its error."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from pipeline.processes.channel import Message
from schemas.errors import SpecError
from stages.user_code import add_user_folder, load_attribute


async def import_user_code(message: Message) -> Message:
    request = message.data
    return await asyncio.to_thread(_import, Path(request["base"]), request["stage"], request["references"])


def _import(base: Path, stage: str, references: Iterable[str]) -> Message:
    try:
        add_user_folder(base)
        for reference in references:
            load_attribute(reference, where=f"stage {stage}")
    except SpecError as exc:
        return Message({"message": exc.message, "hint": exc.hint})
    return Message()
