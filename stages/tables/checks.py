"""checks: conditions that each row must meet, between two stages.

A row that breaks one is rejected with the condition's name (or filtered, or fails its partition). The spec's own
`checks` hold for what is published; these keep bad rows from the stages that follow, which cost money.
"""

from typing import Literal

import polars as pl
from pydantic import Field

from schemas.errors import ChecksFailed, SpecError
from schemas.ids import digest
from schemas.manifest import Provenance
from schemas.spec import Part
from stages.contract import Build, Options, TableStage, check_drop
from stages.tables.sql import failed, row_wise_condition

VERSION = "checks-1"


class Rule(Part):
    name: str = Field(min_length=1, description="the rule's name, which rejects carry")
    sql: str = Field(min_length=1, description="true for a good row; null is not true")
    action: Literal["reject", "filter", "fail"] = Field(
        default="reject", description="a bad row is rejected, is filtered, or fails the partition"
    )


class ChecksOptions(Options):
    rules: list[Rule] = Field(min_length=1, description="the conditions, each `{name, sql, action}`")


def build(wanted: Build) -> TableStage:
    """The stage of a spec that `uses: checks`. Raises SpecError."""
    options, stage = wanted.options(ChecksOptions), wanted.stage
    check_drop(wanted)
    judged: dict[str, frozenset[str]] = {}
    for rule in options.rules:
        looked_at = row_wise_condition(rule.sql, f"{wanted.where}: with.rules: {rule.name}")
        judged[rule.name] = judged.get(rule.name, frozenset()) | looked_at
        try:
            _holds(pl.DataFrame(wanted.columns.empty_table()), rule)
        except pl.exceptions.PolarsError as exc:
            raise SpecError(
                f"{wanted.where}: with.rules: {rule.name}: {str(exc).splitlines()[0]}",
                hint=f"Columns: {', '.join(wanted.columns.names)}",
            ) from None

    rejecting = [rule for rule in options.rules if rule.action == "reject"]

    def held(rows: pl.DataFrame, rule: Rule) -> pl.Series:
        try:
            return _holds(rows, rule)
        except pl.exceptions.PolarsError as exc:
            raise failed(wanted.where, exc) from exc

    def refuse(rows: pl.DataFrame) -> pl.Series:
        why = pl.Series([None] * rows.height, dtype=pl.String)
        for rule in rejecting:
            why = why.set(~held(rows, rule) & why.is_null(), rule.name)
        return why

    def apply(rows: pl.DataFrame) -> pl.DataFrame:
        for rule in options.rules:
            if rule.action == "filter":
                rows = rows.filter(held(rows, rule))
            elif rule.action == "fail" and (broken := int((~held(rows, rule)).sum())):
                raise ChecksFailed(
                    f"{wanted.where}: {rule.name!r}: {broken} row(s) of a batch break it.",
                    hint="Nothing was published; answers are kept in the journal.",
                )
        return rows.drop(stage.drop)

    empty = pl.DataFrame(wanted.columns.empty_table())
    return TableStage(
        spec=stage,
        columns=wanted.columns if not stage.drop else empty.drop(stage.drop).to_arrow().schema,
        fingerprint=digest(VERSION, options.model_dump_json(), str(stage.drop), str(stage.version)),
        apply=apply,
        provenance=Provenance(stage=stage.name, uses="checks"),
        refuse=refuse if rejecting else None,
        judged=judged,
    )


def _holds(rows: pl.DataFrame, rule: Rule) -> pl.Series:
    with pl.SQLContext(rows=rows, eager=True) as context:
        found = context.execute(f"SELECT ({rule.sql}) AS held FROM rows")["held"]
    return found.cast(pl.Boolean).fill_null(False)
