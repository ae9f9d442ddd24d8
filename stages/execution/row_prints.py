"""Fingerprints of rows in a stage: rows of one fingerprint share one answer."""

from collections import Counter

import polars as pl

from schemas.digests import digest
from stages.contract import GraphStage
from stages.journal.fingerprints import fingerprints


def row_prints(stage: GraphStage, rows: pl.DataFrame, ids: list[str]) -> list[str]:
    """Return the fingerprint of each row: of the columns that the stage reads. With `share: false` of the source row,
    too, whose identities are `ids`; the parts of an exploded row that are equal are told apart by their order."""
    prints = fingerprints(rows, stage.reads)
    if stage.spec.share:
        return prints
    seen: Counter[tuple[str, str]] = Counter()
    own = []
    for row in zip(prints, ids, strict=True):
        own.append(digest(*row, str(seen[row])))
        seen[row] += 1
    return own
