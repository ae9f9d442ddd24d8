"""Import of user code in an expendable process first: if that one ends, an error says why, and nothing else ends."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.processes.channel import ChannelClosed
from schemas.errors import SpecError
from schemas.spec.sections import Spec

if TYPE_CHECKING:
    from pipeline.processes.children import Child, WriteLine


async def probe_user_code(spec: Spec, base: Path, write_line: "WriteLine") -> None:
    """Import the code that the spec names, in a separate process, whose output goes to `write_line`. Raises SpecError
    for code that cannot be imported, or ends the process."""
    named = {stage.name: _references(stage.uses, stage.output_class or "", *stage.tools) for stage in spec.stages}
    if not any(named.values()):
        return
    # Temporal's client, half a second, which a spec without user code does not need.
    from pipeline.processes import fork_server
    from pipeline.processes.children import Child

    begin = {"role": "rows", "owner": "", "max_memory": 0}
    child = await Child.started(fork_server.current(), "import", write_line, {}, begin)
    try:
        for stage, references in named.items():
            if references:
                await _probe(child, base, stage, references)
    finally:
        child.kill()
        await child.death


async def _probe(child: "Child", base: Path, stage: str, references: list[str]) -> None:
    try:
        answer = await child.channel.request("import", {"base": str(base), "stage": stage, "references": references})
    except ChannelClosed:
        death = await asyncio.shield(child.death)
        raise SpecError(
            f"stage {stage}: importing {' or '.join(references)} ended the process: it {death.cause}.",
            hint="Importing a module must not end the process: move code that exits, or may crash, into a function.",
        ) from None
    if answer.data is not None:
        raise SpecError(answer.data["message"], hint=answer.data["hint"])


def _references(*names: str) -> list[str]:
    return [name for name in names if ":" in name]
