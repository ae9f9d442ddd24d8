"""The models that answered the rows of a dataset, as their answers name them: providers move a model under its name."""

import orjson
import polars as pl

from schemas.manifest import Answerers, answerers_added


def answering_models(published: pl.DataFrame) -> Answerers:
    """Count the published rows of each model that answered them, by the catalogue of a sink."""
    found: Answerers = {}
    for text in published.filter(published["manifest"].str.contains(_FIELD, literal=True))["manifest"]:
        found = answerers_added(found, orjson.loads(text).get("answered_by", {}))
    return found


_FIELD = '"answered_by"'
