"""Who answered: a model's name is no promise of which model it is."""

from collections.abc import Mapping
from typing import Any

# What we call it → the names under which providers' answers, and LangChain's classes, have it.
_NAMES = {
    "model": ("model_name", "model", "modelId", "model_id"),
    "fingerprint": ("system_fingerprint",),
    "tier": ("service_tier",),
}


def answerer_of(metadata: Mapping[str, Any], endpoint: str) -> dict[str, str]:
    """Return what an answer says of its model: `model`, `fingerprint`, `tier`, as far as it is known; and the
    `endpoint`, if there may be several."""
    found = {}
    for ours, theirs in _NAMES.items():
        value = next((metadata[name] for name in theirs if metadata.get(name)), None)
        if isinstance(value, str):
            found[ours] = value[:200]
    return {**found, "endpoint": endpoint} if endpoint else found
