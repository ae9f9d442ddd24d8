"""The expendable process's side of a trial and of a probe of factories: make the pipeline ready, try rows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline import tracebacks
from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.enrichment.tried_rows import Tried, diagrams, try_rows
from pipeline.planning.job import Ready
from pipeline.processes.channel import Message
from schemas.errors import Bug, TandemError
from schemas.spec.sections import Spec
from schemas.spec.tiers import with_tier
from schemas.tier import Tier
from stages.execution.guards.isolation import RowWatch


@dataclass
class Trials:
    """Requests of a command. Answers are JSON, or `{"error": …}`."""

    watch: RowWatch

    async def build(self, message: Message) -> None:
        """Build the stages of a spec: whatever it raises, the command meets as well, but for the end of the process."""
        spec = Spec.model_validate_json(message.body)
        try:
            await asyncio.to_thread(preflight, spec, Path(message.data["base"]))
        except Exception:  # noqa: BLE001
            return

    async def run(self, message: Message) -> Message:
        """Try rows."""
        tried = Tried(**message.data["tried"])
        file = Path(message.data["spec"])
        return await _answered(lambda ready: try_rows(ready, tried, self.watch), file, tried.tier)

    async def draw(self, message: Message) -> Message:
        """Draw the graphs of stages."""
        only = message.data["stage"]
        return await _answered(lambda ready: asyncio.to_thread(diagrams, ready, only), Path(message.data["spec"]))


def trial_request(spec: Path, tried: Tried) -> dict[str, Any]:
    return {"spec": str(spec), "tried": asdict(tried)}


async def _answered(
    work: Callable[[Ready], Awaitable[dict[str, Any]]], file: Path, tier: Tier | None = None
) -> Message:
    try:
        spec, base = read_spec(file)
        ready = await asyncio.to_thread(preflight, with_tier(spec, tier), base, file=file)
        return Message(body=orjson.dumps(await work(ready), default=str))
    except TandemError as exc:
        error = exc
    except Exception as exc:  # noqa: BLE001
        error = Bug(
            f"A bug in Tandem ({type(exc).__name__}). Nothing that was answered is lost.",
            hint=f"The traceback is in {tracebacks.keep(exc)}; please report it.",
        )
    return Message({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
