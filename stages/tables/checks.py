"""checks: conditions that each row must meet, between two stages.

A row that breaks one is rejected with the condition's name (or filtered, or fails its partition). The spec's own
`checks` hold for what is published; these keep bad rows from the stages that follow, which cost money.
"""

from typing import Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from schemas.digests import digest
from schemas.errors import ChecksFailed
from schemas.manifest import Provenance
from schemas.spec.section import Section
from stages.contract import Options, StageSetup, TableStage, check_drop, query_failed
from stages.tables.condition_check import bind
from stages.tables.conditions import holds, meeting

VERSION = "checks-1"


class Rule(Section):
    name: str = Field(min_length=1, description="the rule's name, which rejects carry")
    sql: str = Field(min_length=1, description="true for a good row; null is not true")
    action: Literal["reject", "filter", "fail"] = Field(
        default="reject", description="a bad row is rejected, is filtered, or fails the partition"
    )


class ChecksOptions(Options):
    rules: list[Rule] = Field(min_length=1, description="the conditions, each `{name, sql, action}`")


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: checks`. Raises SpecError."""
    options, stage = setup.options(ChecksOptions), setup.stage
    check_drop(setup)
    columns_read: dict[str, frozenset[str]] = {}
    for index, rule in enumerate(options.rules):
        place = setup.place("with", "rules", index, "sql")
        columns = bind(rule.sql, setup.columns, f"{setup.where}: with.rules: {rule.name}", place)
        columns_read[rule.name] = columns_read.get(rule.name, frozenset()) | columns

    rejecting = [rule for rule in options.rules if rule.action == "reject"]

    def passes(rows: pl.DataFrame, rule: Rule) -> pl.Series:
        try:
            return holds(rows, rule.sql)
        except pl.exceptions.PolarsError as exc:
            raise query_failed(setup.where, exc) from exc

    def reject_reason(rows: pl.DataFrame) -> pl.Series:
        reasons = pl.Series([None] * rows.height, dtype=pl.String)
        for rule in rejecting:
            reasons = reasons.set(~passes(rows, rule) & reasons.is_null(), rule.name)
        return reasons

    def apply(rows: pl.DataFrame) -> pl.DataFrame:
        for rule in options.rules:
            if rule.action == "filter":
                rows = rows.filter(passes(rows, rule))
            elif rule.action == "fail" and (broken := int((~passes(rows, rule)).sum())):
                raise ChecksFailed(
                    f"{setup.where}: {rule.name!r}: {broken} row(s) of a batch break it.",
                    hint="Nothing was published; answers are kept in the journal.",
                )
        return rows.drop(stage.drop)

    def lazily(rows: pl.LazyFrame) -> pl.LazyFrame:
        for rule in options.rules:
            rows = meeting(rows, rule.sql)
        return rows.drop(stage.drop)

    return TableStage(
        spec=stage,
        columns=pa.schema([field for field in setup.columns if field.name not in stage.drop]),
        fingerprint=digest(VERSION, options.model_dump_json(), str(stage.drop), str(stage.version)),
        apply=apply,
        provenance=Provenance(stage=stage.name, uses="checks"),
        reject_reason=reject_reason if rejecting else None,
        columns_checked=columns_read,
        lazily=lazily if all(rule.action == "filter" for rule in options.rules) else None,
    )
