"""Base of the sections of a spec."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: strict, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
