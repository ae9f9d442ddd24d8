"""User code is imported in an expendable process first: what ends that one is told in a sentence, and ends nothing."""

import asyncio
from pathlib import Path

from pipeline.processes import fork_server
from pipeline.processes.channel import ChannelClosed
from pipeline.processes.children import Child, Say
from schemas.errors import SpecError
from schemas.spec.sections import Spec


async def probe_user_code(spec: Spec, base: Path, say: Say) -> None:
    """Import what the spec names, in a process of its own; `say` is told what that writes. Raises SpecError for what
    cannot be imported, or ends the process."""
    named = {stage.name: _references(stage.uses, stage.output_class or "", *stage.tools) for stage in spec.stages}
    if not any(named.values()):
        return
    begin = {"role": "rows", "owner": "", "max_memory": 0}
    child = await Child.started(fork_server.current(), "import", say, {}, begin)
    try:
        for stage, references in named.items():
            if references:
                await _probe(child, base, stage, references)
    finally:
        child.kill()
        await child.death


async def _probe(child: Child, base: Path, stage: str, references: list[str]) -> None:
    try:
        answer = await child.channel.ask("import", {"base": str(base), "stage": stage, "references": references})
    except ChannelClosed:
        death = await asyncio.shield(child.death)
        raise SpecError(
            f"stage {stage}: importing {' or '.join(references)} ended the process: it {death.how}.",
            hint="A module that is imported must return; put what exits, or may crash, behind a function.",
        ) from None
    if answer.data is not None:
        raise SpecError(answer.data["message"], hint=answer.data["hint"])


def _references(*names: str) -> list[str]:
    return [name for name in names if ":" in name]
