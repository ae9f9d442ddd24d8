"""The models that answered the rows of a dataset, as their answers name them: providers move a model under its name."""

import logging

import orjson

from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas.errors import TandemError
from schemas.manifest import Answerers, answerers_added

log = logging.getLogger("tandem.runs")


def answering_models(store: Store) -> Answerers:
    """Count the published rows of each model that answered them; none if the sink cannot be read, as a run must end all
    the same."""
    try:
        published = catalogue.published(store)
    except (TandemError, ValueError, OSError) as exc:
        log.warning("the models that answered are not counted: %s", exc)
        return {}
    found: Answerers = {}
    for text in published.filter(published["manifest"].str.contains(_FIELD, literal=True))["manifest"]:
        found = answerers_added(found, orjson.loads(text).get("answered_by", {}))
    return found


_FIELD = '"answered_by"'
