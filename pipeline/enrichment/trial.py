"""A few rows through the stages in the foreground, each on a path of its own: what every stage made of it.

Nothing is published. A stage that waits for a whole partition is given the rows that are tried as if they were one.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipeline.planning.job import Job
from schemas.errors import ConnectionFailed
from schemas.tables import answer_columns
from stages.contract import REJECTED, ROW, GraphStage, TableStage
from stages.execution.batch import BatchContext, run_graph_stage
from stages.journal.fingerprints import row_ids
from stages.journal.records import RowRecord
from stages.models.errors import Waiting


@dataclass
class Trial:
    """`paths` are of the rows of `frame`, in its order: one becomes several where a row is exploded; `ended` those that
    go no further. `tables` are the results of stages that keep rows apart no longer."""

    job: Job
    rows: pl.DataFrame
    context: BatchContext
    paths: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = row_ids(self.rows, self.job.spec.source.key)
        self.frame = self.rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
        self.paths = [{"at": at, "input": row, "stages": {}} for at, row in enumerate(self.rows.iter_rows(named=True))]

    async def through(self, last: str | None = None) -> list[dict[str, Any]]:
        """The paths, in the order of their rows; nothing after `last` is run, nor paid for. Raises what stops a run."""
        for stage in self.job.stages:
            if isinstance(stage, GraphStage):
                await self._graph(stage)
            elif not self.tables:
                self._table(stage)
            if stage.name == last:
                break
        told = sorted([*self.ended, *self.paths], key=lambda path: path["at"])
        return [{"input": path["input"], "stages": path["stages"]} for path in told]

    async def _graph(self, stage: GraphStage) -> None:
        steps: dict[str, list[dict[str, Any]]] = {}

        def told(row: str, node: str, update: Any) -> None:
            steps.setdefault(row, []).append({"node": node, "update": short(update)})

        self.context.on_step = told
        ids = [self.ids[at] for at in self.frame[ROW].to_list()]
        outcome = await run_graph_stage(stage, self.frame, ids, self.context)
        if isinstance(outcome.stopped, Waiting):
            raise ConnectionFailed(outcome.stopped.message, hint="Answers so far are kept; try again later.")
        if outcome.stopped is not None:
            raise outcome.stopped
        records = [record for record in outcome.records if record is not None]
        answers = [orjson.loads(record.answer) if record.answer else None for record in records]
        for path, record, answer in zip(self.paths, records, answers, strict=True):
            shown = None if answer is None else {name: answer.get(name) for name in stage.fields}
            made = {"status": record.status, "output": shown, "error": record.error}
            path["stages"][stage.name] = {**made, "usage": self._usage(record), "steps": steps.get(record.row, [])}
        columns = answer_columns(answers, stage.fields)
        frame = self.frame.with_columns(pl.Series(name, values) for name, values in columns.items())
        stays = {"ok"} | ({"rejected"} if stage.spec.on_reject == "null" else set())
        kept = [record.status in stays for record in records]
        self._keep(frame.drop(stage.spec.drop, strict=False), kept)

    def _usage(self, record: RowRecord) -> dict[str, Any]:
        """What the row's answer took, whoever paid for it, and whether that was this time."""
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
        if stage.reject_reason is not None:
            self._refuse(stage, stage.reject_reason(self.frame))
        before = self.frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))  # numbers paths meanwhile
        after = self._whole(stage, before) if stage.run_on_partition is not None else stage.apply(before)
        if stage.run_on_partition is not None and not stage.keeps_rows:
            self.tables[stage.name] = after.to_dicts()
            for path in self.paths:
                path["stages"][stage.name] = {"status": "grouped"}
            return
        self._follow(stage, after)

    def _whole(self, stage: TableStage, rows: pl.DataFrame) -> pl.DataFrame:
        assert stage.run_on_partition is not None
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            source = Path(folder) / "rows.parquet"
            rows.with_columns(pl.lit(False).alias(REJECTED)).write_parquet(source)
            return stage.run_on_partition(source).collect().drop(REJECTED, strict=False)

    def _refuse(self, stage: TableStage, why: pl.Series) -> None:
        for path, reason in zip(self.paths, why.to_list(), strict=True):
            if reason is not None:
                error = {"kind": reason, "message": f"the check {reason!r} does not hold"}
                path["stages"][stage.name] = {"status": "rejected", "error": error}
        if stage.spec.on_reject == "drop":
            self._keep(self.frame, why.is_null().to_list())

    def _follow(self, stage: TableStage, after: pl.DataFrame) -> None:
        """Paths go where their rows went."""
        added = [name for name in after.columns if name not in self.frame.columns]
        paths = []
        for row in after.iter_rows(named=True):
            old = self.paths[row[ROW]]
            made = old["stages"].get(stage.name, {"status": "ok"})
            shown = {"output": {name: row[name] for name in added}} if added else {}
            paths.append({**old, "stages": {**old["stages"], stage.name: {**made, **shown}}})
        left = set(after[ROW].to_list())
        for at, path in enumerate(self.paths):
            if at not in left:
                path["stages"][stage.name] = {"status": "filtered"}
                self.ended.append(path)
        self.paths = paths
        self.frame = after.with_columns(pl.Series(ROW, [path["at"] for path in paths], dtype=pl.Int64))

    def _keep(self, frame: pl.DataFrame, kept: list[bool]) -> None:
        self.ended += [path for path, keeps in zip(self.paths, kept, strict=True) if not keeps]
        self.paths = [path for path, keeps in zip(self.paths, kept, strict=True) if keeps]
        self.frame = frame.filter(pl.Series(kept, dtype=pl.Boolean))


def short(update: Any) -> Any:
    """A node's update as text of a bearable length; messages as who said what."""
    if isinstance(update, Mapping):
        return {str(key): short(value) for key, value in update.items()}
    if isinstance(update, list):
        return [short(value) for value in update[-2:]]
    if hasattr(update, "content"):
        wishes: Iterable[Any] = getattr(update, "tool_calls", ())
        called = "".join(f" {wish['name']}({orjson.dumps(wish['args'], default=str).decode()})" for wish in wishes)
        return f"{update.type}: {update.content}{called}"[:500]
    return update if isinstance(update, int | float | bool | None) else str(update)[:500]
