"""What a provider's schema mode cannot take of a declared output: known before a run. No I/O.

Sources: developers.openai.com/api/docs/guides/structured-outputs (supported schemas), and of Anthropic the SDK's
`transform_schema`, which knows no schema that refers to itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_MOST_PROPERTIES, _MOST_LEVELS, _MOST_VALUES, _MOST_NAME_CHARACTERS = 5_000, 10, 1_000, 120_000
_LARGE_ENUM, _MOST_ENUM_CHARACTERS = 250, 15_000


def unexpressible(provider: str, schema: Mapping[str, Any]) -> str | None:
    """Return what a provider's schema mode cannot take of a schema, as the end of a sentence; None if all is well."""
    if provider in ("anthropic", "bedrock_converse"):
        name = _recursive(schema)
        return f"refers to itself ({name}), which it does not take" if name is not None else None
    if provider == "openai":
        return next(_of_openai(schema), None)
    return None


def _of_openai(schema: Mapping[str, Any]) -> Iterator[str]:
    parts = list(_parts(schema))
    names = [name for part in parts for name in part.get("properties", {})]
    enums = [part["enum"] for part in parts if isinstance(part.get("enum"), list)]
    values = [str(value) for enum in enums for value in enum]
    characters = sum(map(len, [*names, *schema.get("$defs", {}), *values]))
    if len(names) > _MOST_PROPERTIES:
        yield f"has {len(names):,} fields, and it takes {_MOST_PROPERTIES:,}"
    if _recursive(schema) is None and (levels := _levels(schema, schema)) > _MOST_LEVELS:
        yield f"is nested {levels} levels deep, and it takes {_MOST_LEVELS}"
    if len(values) > _MOST_VALUES:
        yield f"has {len(values):,} values of enums, and it takes {_MOST_VALUES:,}"
    if characters > _MOST_NAME_CHARACTERS:
        yield f"has names and values of {characters:,} characters, and it takes {_MOST_NAME_CHARACTERS:,}"
    for enum in enums:
        size = sum(len(str(value)) for value in enum)
        if len(enum) > _LARGE_ENUM and size > _MOST_ENUM_CHARACTERS:
            yield f"has an enum of {len(enum):,} values, {size:,} characters, and it takes {_MOST_ENUM_CHARACTERS:,}"


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield all schemas within a schema, itself included."""
    if isinstance(schema, Mapping):
        yield schema
        for name, part in schema.items():
            inner = part.values() if name in ("properties", "$defs") and isinstance(part, Mapping) else [part]
            if name not in ("enum", "const", "default", "examples"):
                for one in inner:
                    yield from _parts(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _parts(one)


def _levels(schema: Any, root: Mapping[str, Any]) -> int:
    """Return how many objects and lists lie within each other at most."""
    if isinstance(schema, list):
        return max((_levels(part, root) for part in schema), default=0)
    if not isinstance(schema, Mapping):
        return 0
    if "$ref" in schema:
        return _levels(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2]), root)
    inner = [*schema.get("properties", {}).values(), schema.get("items")]
    deepest = max(_levels(part, root) for part in inner)
    own = 1 if schema.get("properties") or schema.get("items") else 0
    return max(own + deepest, *(_levels(schema.get(name, []), root) for name in ("anyOf", "oneOf", "allOf")))


def _recursive(schema: Mapping[str, Any]) -> str | None:
    """Return the name of a definition that refers to itself, by others too."""
    definitions = schema.get("$defs", {})
    uses = {
        name: {str(part["$ref"]).rpartition("/")[2] for part in _parts(body) if "$ref" in part}
        for name, body in definitions.items()
    }
    for name in definitions:
        reached, ahead = set[str](), set(uses[name])
        while ahead:
            found = ahead.pop()
            if found not in reached:
                reached.add(found)
                ahead |= uses.get(found, set())
        if name in reached:
            return str(name)
    return None
