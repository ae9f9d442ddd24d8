"""Deterministic instances of JSON schemas: the same digest always gives the same, valid answer."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

Schema = Mapping[str, Any]

_WORDS = ("invoice", "login", "delay", "refund", "outage", "thanks", "upgrade", "export", "screen", "account")
_DEEP = 6  # below it, recursive schemas end: nulls, no optional property, no optional array item
_SHARE_ABSENT = 0.25


def answer_for(schema: Schema, digest: str) -> Any:
    """A valid instance of `schema`, chosen by `digest` (hexadecimal). String patterns are not understood."""
    return _Maker(schema, random.Random(int(digest[:16], 16))).make(schema, 0)


def wrong_answer_for(schema: Schema) -> dict[str, Any]:
    """Valid JSON in which every property of `schema` has the wrong type."""
    names = list(schema.get("properties", {})) or ["unexpected"]
    return {name: {"wrong": ["type"]} for name in names}


class _Maker:
    def __init__(self, root: Schema, rng: random.Random) -> None:
        self.root = root
        self.rng = rng

    def make(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):  # `true` allows anything
            return self._words(1)
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.rng.choice(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.make(self._branch(schema[union], depth), depth + 1)
        return self._of_type(self._type(schema, depth), schema, depth)

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            target: Any = self.root
            for step in schema["$ref"].lstrip("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")] if step else target
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        for part in schema.get("allOf", ()):
            schema = _merged(schema, self._resolved(part))
        return schema

    def _branch(self, branches: list[Schema], depth: int) -> Schema:
        nulls = [branch for branch in branches if branch.get("type") == "null"]
        others = [branch for branch in branches if branch.get("type") != "null"]
        if not others or (nulls and (depth > _DEEP or self.rng.random() < _SHARE_ABSENT)):
            return nulls[0]
        plain = [branch for branch in others if "pattern" not in branch and (depth <= _DEEP or "$ref" not in branch)]
        return self.rng.choice(plain or others)

    def _type(self, schema: Schema, depth: int) -> str:
        named = schema.get("type")
        if isinstance(named, list):
            chosen = self._branch([{"type": name} for name in named], depth)["type"]
            return str(chosen)
        if named is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return str(named)

    def _of_type(self, name: str, schema: Schema, depth: int) -> Any:
        match name:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self.rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        made = {}
        for name, child in schema.get("properties", {}).items():
            absent = name not in required and (depth > _DEEP or self.rng.random() < _SHARE_ABSENT)
            if not absent:
                made[name] = self.make(child, depth + 1)
        if not made and isinstance(schema.get("additionalProperties"), Mapping) and depth <= _DEEP:
            made[self._words(1)] = self.make(schema["additionalProperties"], depth + 1)
        return made

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        made = [self.make(child, depth + 1) for child in schema.get("prefixItems", ())]
        low = int(schema.get("minItems", 0))
        high = int(schema.get("maxItems", low + 3))
        wanted = low if depth > _DEEP else self.rng.randint(low, high)
        child = schema.get("items", True)
        if child is False:
            return made
        for _ in range(20 * wanted):  # unique items of a small enum may need several draws
            if len(made) >= wanted:
                break
            item = self.make(child, depth + 1)
            if not (schema.get("uniqueItems") and item in made):
                made.append(item)
        return made

    def _integer(self, schema: Schema) -> int:
        step = int(schema.get("multipleOf", 1))
        low, high = _bounds(schema)
        first = math.floor(low / step) + 1 if _excludes(schema, "exclusiveMinimum", low) else math.ceil(low / step)
        last = math.ceil(high / step) - 1 if _excludes(schema, "exclusiveMaximum", high) else math.floor(high / step)
        return step * self.rng.randint(first, max(first, last))

    def _number(self, schema: Schema) -> float:
        low, high = _bounds(schema)
        exact = low + (high - low) * (0.01 + 0.98 * self.rng.random())
        rounded = round(exact, 3)
        return rounded if low < rounded < high else exact

    def _string(self, schema: Schema) -> str:
        day = date(2026, 1, 1) + timedelta(days=self.rng.randrange(365))
        clock = f"{self.rng.randrange(24):02}:{self.rng.randrange(60):02}:00"
        match schema.get("format"):
            case "date":
                return day.isoformat()
            case "date-time":
                return f"{day.isoformat()}T{clock}Z"
            case "time":
                return clock
            case "uuid":
                return f"{self.rng.getrandbits(32):08x}-0000-4000-8000-{self.rng.getrandbits(48):012x}"
            case "email":
                return f"{self._words(1)}@example.com"
            case "uri" | "url":
                return f"https://example.com/{self._words(1)}"
        text = self._words(self.rng.randint(2, 5))
        while len(text) < schema.get("minLength", 0):
            text += " " + self._words(3)
        return text[: schema.get("maxLength")]

    def _words(self, count: int) -> str:
        return " ".join(self.rng.choices(_WORDS, k=count))


def _bounds(schema: Schema) -> tuple[float, float]:
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    low = max(lows) if lows else (min(highs) - 100 if highs else 0)
    return low, min(highs) if highs else low + 100


def _excludes(schema: Schema, key: str, bound: float) -> bool:
    return key in schema and schema[key] == bound


def _merged(one: Schema, other: Schema) -> Schema:
    both = {**other, **one}
    both["properties"] = {**other.get("properties", {}), **one.get("properties", {})}
    both["required"] = [*other.get("required", ()), *one.get("required", ())]
    return {key: value for key, value in both.items() if key != "allOf" and value not in ({}, [])}
