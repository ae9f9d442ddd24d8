"""From which columns of the source each column of the output was made, by what the stages read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from stages.contract import AnyStage, GraphStage, TableStage


@dataclass(frozen=True)
class Origin:
    """The columns of the source that a column was made from, in its order. `by`: the stages that made it, in words;
    empty for a column that was passed through."""

    columns: tuple[str, ...]
    by: tuple[str, ...] = ()


def origins(stages: Iterable[AnyStage], source: pa.Schema) -> dict[str, Origin]:
    """Return the origin of each column after the stages."""
    known = {name: Origin((name,)) for name in source.names}
    columns = source
    for stage in stages:
        after = stage.columns_after(columns)
        known = {name: _after(stage, name, known) for name in after.names}
        columns = after
    places = {name: at for at, name in enumerate(source.names)}
    return {
        name: Origin(tuple(sorted(origin.columns, key=places.__getitem__)), origin.by) for name, origin in known.items()
    }


def _after(stage: AnyStage, name: str, before: Mapping[str, Origin]) -> Origin:
    if isinstance(stage, GraphStage):
        return _made(stage, stage.reads, before) if name in stage.fields else before[name]
    read = _read_by_table_stage(stage, name, before)
    if read is None:  # not to be seen from outside: it may be of any column
        return _made(stage, tuple(before), before)
    return before[name] if read == (name,) and name in before else _made(stage, read, before)


def _made(stage: AnyStage, read: Iterable[str], before: Mapping[str, Origin]) -> Origin:
    found = [before[name] for name in read if name in before]
    columns = dict.fromkeys(name for origin in found for name in origin.columns)
    by = dict.fromkeys([*(one for origin in found for one in origin.by), f"{stage.name} ({stage.spec.uses})"])
    return Origin(tuple(columns), tuple(by))


def _read_by_table_stage(stage: TableStage, name: str, before: Mapping[str, Origin]) -> tuple[str, ...] | None:
    """Return the columns that a table stage's column is made of, None if unknown."""
    uses = stage.spec.uses
    if uses == "sql":
        return _read_by_query(stage.spec.query or "", name)
    if uses == "aggregate":
        expression = (stage.spec.options.get("columns") or {}).get(name)
        return _columns_of(expression) if expression is not None else (name,)
    if uses == "explode" and name not in before:
        column = stage.spec.options.get("column")
        return (str(column),) if column in before else None
    return (name,) if name in before else None


def _read_by_query(query: str, name: str) -> tuple[str, ...] | None:
    import sqlglot  # a fifth of a second, which specs without SQL don't need
    from sqlglot import exp

    tree = sqlglot.parse_one(query, dialect="postgres")
    if not isinstance(tree, exp.Select) or tree.find(exp.CTE, exp.Subquery, exp.Join):
        return None
    for item in tree.expressions:
        if not item.is_star and item.alias_or_name == name:
            return tuple(dict.fromkeys(column.name for column in item.find_all(exp.Column)))
    return (name,) if tree.is_star else None


def _columns_of(expression: str) -> tuple[str, ...]:
    import sqlglot
    from sqlglot import exp

    found = sqlglot.parse_one(expression, dialect="postgres").find_all(exp.Column)
    return tuple(dict.fromkeys(column.name for column in found))
