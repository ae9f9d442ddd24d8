"""The state of a change of columns: partitions that still have the former columns, until all are published again."""

import logging

import polars as pl

from pipeline.runs.report import MixedColumns
from pipeline.sinks import catalogue
from pipeline.sinks.schema import column_change, load_schema
from pipeline.stores import Store
from schemas.errors import TandemError

log = logging.getLogger("tandem.runs")


def mixed_columns(store: Store, published: pl.DataFrame | None = None) -> MixedColumns:
    """Count partitions with former columns; none if the sink cannot be read, as a run must end all the same.
    `published`: the catalogue of all, if it was read already."""
    try:
        change = column_change(load_schema(store))
        if not change.since:
            return MixedColumns()
        if published is None:
            published = catalogue.published(store)
        found = [one for one in catalogue.manifests(published) if one.present]
    except (TandemError, ValueError, OSError) as exc:
        log.warning("partitions with former columns are not counted: %s", exc)
        return MixedColumns()
    former = sum(map(change.outdates, found))
    return MixedColumns(partitions=former, of=len(found), change=change.text) if former else MixedColumns()
