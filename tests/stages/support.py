"""What the tests of stages are made of: a spec, a built stage, a journal on a list, one batch."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
from langchain_core.language_models import BaseChatModel

from schemas.spec.sections import ModelChoice, Spec
from stages.contract import AnyStage, GraphStage
from stages.execution.attempt import BatchContext, StageOutcome
from stages.execution.batch import run_graph_stage
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.known import Known
from stages.journal.records import CommonRecord, Record, RequestRecord
from stages.journal.segments import decode_segment
from stages.journal.writer import Journal
from stages.models.backend import Backend
from stages.models.factory import build_model
from stages.models.langchain.face import as_langchain
from stages.models.row.scope import RowScope, Tally, current
from stages.models.settings.choice import ModelServices
from stages.registry import build_stages

TEXT = pa.schema([pa.field("text", pa.string())])
MODEL = "openai:test-model"


def a_spec(*stages: Mapping[str, Any], mcp: Mapping[str, Any] | None = None, **limits: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "tests",
            "source": {"path": "rows.parquet", "key": [] if all(one.get("share", True) for one in stages) else ["id"]},
            "stages": [{"name": f"stage{at}", **stage} for at, stage in enumerate(stages)],
            "sink": {"path": "out"},
            "limits": {"rows_in_flight": 8, **limits},
            "mcp": dict(mcp or {}),
        }
    )


def built(
    *stages: Mapping[str, Any], columns: pa.Schema = TEXT, services: ModelServices | None = None, **limits: Any
) -> list[AnyStage]:
    return build_stages(a_spec(*stages, **limits), columns, base=Path(), services=services or ModelServices())


def a_graph_stage(
    stage: Mapping[str, Any], columns: pa.Schema = TEXT, services: ModelServices | None = None, **limits: Any
) -> GraphStage:
    found = built(stage, columns=columns, services=services, **limits)[0]
    assert isinstance(found, GraphStage)
    return found


def an_extract(services: ModelServices | None = None, columns: pa.Schema = TEXT, **changed: Any) -> GraphStage:
    limits = changed.pop("limits", {})
    stage = {
        "uses": "extract",
        "model": MODEL,
        "prompt": "{{ text }}",
        "output": {"word": "str", "level": {"type": "int", "ge": 1, "le": 5}},
        **changed,
    }
    return a_graph_stage(stage, columns, services, **limits)


def a_model(
    services: ModelServices | None = None, name: str = MODEL, params: Mapping[str, Any] | None = None, **limits: Any
) -> BaseChatModel:
    spec = a_spec({"uses": "x:y", "output": {"a": "str"}}, **limits)
    choice = ModelChoice(name=name, params=dict(params or {}))
    return as_langchain(build_model(choice, spec.stages[0], spec, services or ModelServices()))


def backend_of(model: Any) -> Backend:
    """The backend of a model, ours or in LangChain's class."""
    backend: Backend = getattr(model, "inner", model)._tandem
    return backend


@dataclass
class Segments:
    """A journal's store. With `failing`, each put raises it."""

    data: list[bytes] = field(default_factory=list)
    failing: Exception | None = None
    puts: int = 0

    async def put(self, data: bytes) -> None:
        self.puts += 1
        await asyncio.sleep(0)
        if self.failing is not None:
            raise self.failing
        self.data.append(data)

    @property
    def records(self) -> list[Record]:
        """Those that answers depend on."""
        return [record for record in self.everything if not isinstance(record, RequestRecord | CommonRecord)]

    @property
    def everything(self) -> list[Record]:
        """All records, those of requests too."""
        return [record for data in self.data for record in decode_segment(data).records]

    def journal(self, **options: Any) -> Journal:
        """A new attempt's journal, which knows what is stored."""
        return Journal(self.put, known=Known(self.records), **options)


def a_context(segments: Segments | None = None, *, run: str = "run-1", batch: int = 0, **given: Any) -> BatchContext:
    options = {name: given.pop(name) for name in ("strict", "flush_s", "flush_records") if name in given}
    journal = (segments or Segments()).journal(**options)
    return BatchContext(
        run=run,
        batch=batch,
        journal=journal,
        shared=given.pop("shared", None) or Shared(),
        drain=given.pop("drain", None) or asyncio.Event(),
        **given,
    )


async def enrich(
    stage: GraphStage, rows: pl.DataFrame | list[Any], context: BatchContext | None = None
) -> StageOutcome:
    """One batch, its journal closed. A list is the column `text`."""
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame({"text": rows}, schema={"text": pl.String})
    context = context or a_context()
    try:
        return await run_graph_stage(stage, frame, [f"row-{at}" for at in range(frame.height)], context)
    finally:
        await context.journal.close()


def answers(outcome: StageOutcome) -> list[dict[str, Any] | None]:
    return [orjson.loads(r.answer) if r is not None and r.answer is not None else None for r in outcome.records]


def kinds(outcome: StageOutcome) -> list[str | None]:
    """`ok`, or the kind of reject, of each row."""
    found: list[str | None] = []
    for record in outcome.records:
        found.append(None if record is None else str(record.error["kind"]) if record.error else record.status)
    return found


@contextmanager
def a_row(
    journal: Journal, *, id: str = "row-0", run: str = "run-1", shared: Shared | None = None
) -> Iterator[RowScope]:
    """Within it, model calls are this row's."""
    scope = RowScope(
        id=id,
        run=run,
        batch=0,
        journal=journal,
        tally=Tally(),
        in_flight=(shared or Shared()).calls,
        loop=asyncio.get_running_loop(),
    )
    token = current.set(scope)
    try:
        yield scope
    finally:
        current.reset(token)
        scope.close()


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition; machines differ, so no test counts on a sleep."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  the condition may lie in another process
            await asyncio.sleep(0.005)
