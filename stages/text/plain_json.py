"""Write any value as JSON: pydantic models by their fields, and types that JSON does not have as text."""

from typing import Any

import orjson
from pydantic import BaseModel


def to_json(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
