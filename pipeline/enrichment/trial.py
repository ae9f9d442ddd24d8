"""A trial: a few rows through the stages in the foreground, with each stage's result for each row.

Nothing is published. A stage over the whole partition gets the rows that are tried as if they were one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import polars as pl

from pipeline.planning.job import Job
from schemas.errors import ConnectionFailed
from stages.contract import ROW, GraphStage, TableStage
from stages.execution.attempt import BatchContext
from stages.execution.batch import run_graph_stage
from stages.execution.row_flow import RowTable, Step, answer_of, apply_stage, take_answers
from stages.journal.fingerprints import row_ids
from stages.journal.records import RowRecord
from stages.models.failures.errors import Waiting


@dataclass
class Trial:
    """`paths` are of the rows of `table`, in its order: one becomes several where a row is exploded; `ended` those that
    go no further. `tables` are the results of stages that keep rows apart no longer."""

    job: Job
    rows: pl.DataFrame
    context: BatchContext
    paths: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = row_ids(self.rows, self.job.spec.source.key)
        self.table = RowTable.of_source(self.rows, self.job.snapshot.schema)
        self.paths = [
            {"row": index, "input": row, "stages": {}} for index, row in enumerate(self.rows.iter_rows(named=True))
        ]

    async def through(self, last: str | None = None) -> list[dict[str, Any]]:
        """Run the stages up to `last`. Returns the paths, in the order of their rows. Raises errors that stop a run."""
        for stage in self.job.stages:
            if isinstance(stage, GraphStage):
                await self._graph(stage)
            elif not self.tables:
                self._table(stage)
            if stage.name == last:
                break
        paths = sorted([*self.ended, *self.paths], key=lambda path: path["row"])
        return [{"input": path["input"], "stages": path["stages"]} for path in paths]

    async def _graph(self, stage: GraphStage) -> None:
        steps: dict[str, list[dict[str, Any]]] = {}

        def record_step(row: str, node: str, update: Any) -> None:
            steps.setdefault(row, []).append({"node": node, "update": short(update)})

        self.context.on_step = record_step
        ids = [self.ids[row] for row in self.table.positions]
        outcome = await run_graph_stage(stage, self.table.frame, ids, self.context)
        if isinstance(outcome.stopped, Waiting):
            raise ConnectionFailed(outcome.stopped.message, hint="Answers so far are kept; try again later.")
        if outcome.stopped is not None:
            raise outcome.stopped
        answers = [answer_of(record) for record in outcome.done]
        for path, record, answer in zip(self.paths, outcome.done, answers, strict=True):
            shown = None if answer.values is None else {name: answer.values.get(name) for name in stage.fields}
            made = {"status": record.status, "output": shown, "error": record.error}
            path["stages"][stage.name] = {**made, "usage": self._usage(record), "steps": steps.get(record.row, [])}
        self._follow(take_answers(stage, self.table, answers))

    def _usage(self, record: RowRecord) -> dict[str, Any]:
        """Return the calls, tokens and cost behind the row's answer, in this trial or before."""
        known = (self.context.journal.known.calls.get(key) for key in record.calls)
        calls = [call for call in known if call is not None and call.raw is not None]
        return {
            "calls": len(record.calls),
            "input_tokens": sum(call.usage.get("input", 0) for call in calls),
            "output_tokens": sum(call.usage.get("output", 0) for call in calls),
            "cost_usd": round(sum(call.cost_usd or 0.0 for call in calls), 6),
            "models": list(dict.fromkeys(call.model for call in calls)),
        }

    def _table(self, stage: TableStage) -> None:
        before = self.table
        step = apply_stage(stage, before)
        if not stage.keeps_rows:
            self.tables[stage.name] = step.table.frame.drop(ROW).to_dicts()
            for path in self.paths:
                path["stages"][stage.name] = {"status": "grouped"}
            return
        for reject in step.rejected:
            error = {"kind": reject.reason, "message": f"the check {reject.reason!r} does not hold"}
            self.paths[reject.place]["stages"][stage.name] = {"status": "rejected", "error": error}
        for place, cause in step.left.items():
            if cause == "filtered":
                self.paths[place]["stages"][stage.name] = {"status": "filtered"}
        self._follow(step)
        added = [name for name in step.table.columns.names if name not in before.frame.columns]
        for path, row in zip(self.paths, step.table.frame.iter_rows(named=True), strict=True):
            made = path["stages"].get(stage.name, {"status": "ok"})
            shown = {"output": {name: row[name] for name in added}} if added else {}
            path["stages"][stage.name] = {**made, **shown}

    def _follow(self, step: Step) -> None:
        """Move the paths with their rows; each part of an exploded row has a path of its own."""
        self.ended += [self.paths[place] for place in step.left]
        self.paths = [{**self.paths[place], "stages": {**self.paths[place]["stages"]}} for place in step.origins]
        self.table = step.table


def short(update: Any) -> Any:
    """Return a node's update as short text; messages as type and content."""
    if isinstance(update, Mapping):
        return {str(key): short(value) for key, value in update.items()}
    if isinstance(update, list):
        return [short(value) for value in update[-2:]]
    if hasattr(update, "content"):
        tool_calls: Iterable[Any] = getattr(update, "tool_calls", ())
        calls_text = "".join(
            f" {call['name']}({orjson.dumps(call['args'], default=str).decode()})" for call in tool_calls
        )
        return f"{update.type}: {update.content}{calls_text}"[:500]
    return update if isinstance(update, int | float | bool | None) else str(update)[:500]
