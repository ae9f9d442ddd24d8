"""Sizes as people write them (`2GiB`, `500MB`), and as bytes."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
}
_FACTORS = {unit.lower(): factor for unit, factor in _UNITS.items()}
_PATTERN = r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT][iI]?[bB])\s*"
_MOST = 1 << 60


def parse_size(value: Any) -> int:
    """Parse `2GiB` or `1.5 gb` as bytes. Raises ValueError that names the allowed forms."""
    match = re.fullmatch(_PATTERN, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a size; write a number and a unit: 500MB, 2GB, 512MiB, 2GiB")
    size: float = float(match[1]) * _FACTORS[match[2].lower()]
    if not 0 < size <= _MOST:
        raise ValueError(f"the size is too {'large' if size else 'small'}")
    return round(size)


def format_size(value: int) -> str:
    """Return the shortest exact form, `2GiB` or `500MB`; where there is none, kilobytes with a fraction."""
    for unit in sorted(_UNITS, key=_UNITS.__getitem__, reverse=True):
        if value and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value / 1000:.3f}kB"


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "format": "size", "pattern": f"^{_PATTERN}$"}),
]
