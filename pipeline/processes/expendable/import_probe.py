"""Import of user code in an expendable process first: if that one ends, an error says why, and nothing else ends."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.processes.channel import ChannelClosed
from schemas.errors import SpecError
from schemas.spec.sections import Spec
from schemas.spec.tools import functions_in

if TYPE_CHECKING:
    from pipeline.processes.children import Child, WriteLine


async def probe_user_code(spec: Spec, base: Path, write_line: "WriteLine") -> None:
    """Import the code that the spec names, and call its factories, in a separate process, whose output goes to
    `write_line`. Raises SpecError for code that cannot be imported, or ends the process."""
    named = {
        stage.name: _references(stage.uses, stage.output_class or "", *functions_in(stage.tools))
        for stage in spec.stages
    }
    graphs = {stage.name: ":" in stage.uses for stage in spec.stages}
    if not any(named.values()):
        return
    # Temporal's client, half a second, which a spec without user code does not need.
    from pipeline.processes.children import Child
    from pipeline.processes.fork_server import handle as fork_server

    begin = {"role": "rows", "owner": "", "max_memory": 0}
    child = await Child.started(fork_server.current(), "import", write_line, {}, begin)
    try:
        factories = []
        for stage, references in named.items():
            if references and await _probe(child, base, stage, references, graphs[stage]):
                factories.append(stage)
        if factories:
            await _build(child, spec, base, factories)
    finally:
        child.kill()
        await child.death


async def _probe(child: "Child", base: Path, stage: str, references: list[str], is_graph: bool) -> bool:
    """Import what a stage names. Returns True if the first of it `is_graph` and a factory, still to be called."""
    request = {"base": str(base), "stage": stage, "references": references, "graph": is_graph}
    try:
        answer = await child.channel.request("import", request)
    except ChannelClosed:
        death = await asyncio.shield(child.death)
        raise SpecError(
            f"stage {stage}: importing {' or '.join(references)} ended the process: it {death.cause}.",
            hint="Importing a module must not end the process: move code that exits, or may crash, into a function.",
        ) from None
    if "message" in answer.data:
        raise SpecError(answer.data["message"], hint=answer.data["hint"])
    return bool(answer.data["factory"])


async def _build(child: "Child", spec: Spec, base: Path, stages: list[str]) -> None:
    """Call the factories of stages. Other errors than the end of the process are left to the command."""
    try:
        await child.channel.request("build", {"base": str(base)}, spec.model_dump_json().encode())
    except ChannelClosed:
        death = await asyncio.shield(child.death)
        raise SpecError(
            f"{'stage' if len(stages) == 1 else 'stages'} {', '.join(stages)}: calling the factory of the graph ended "
            f"the process: it {death.cause}.",
            hint="A factory must return a graph: move code that exits, or may crash, into a node.",
        ) from None


def _references(*names: str) -> list[str]:
    return [name for name in names if ":" in name]
