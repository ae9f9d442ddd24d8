"""Prompt templates: Jinja2, sandboxed and strict. The columns that a template reads are known before any row is
read."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.errors import RowError, SpecError
from stages.text.quoting import quoted

# `row` holds every column, for names that are no identifiers: {{ row["Order ID"] }}.
ROW = "row"


class _Null(str):
    """A null column: renders as '', through filters too (`None | trim` would be the word None), and is still none."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""


_NULL = _Null()


class _NullMember(_Null):
    """A member of a null: null again, `{{ person.name }}` as well as `{{ text.upper() }}`."""

    __hash__ = str.__hash__
    name = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = getattr("", self.name, None)
        return _NULL if method is None else method(*args, **kwargs)


def _member(name: str) -> _NullMember:
    member = _NullMember()
    member.name = name
    return member


class _Environment(ImmutableSandboxedEnvironment):
    """Makes members and items of a null null, at every depth."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if _is_none(obj) and not attribute.startswith("_"):
            return _member(attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if _is_none(obj) and not (isinstance(argument, str) and argument.startswith("_")):
            return _NULL
        return super().getitem(obj, argument)


def _blank_null(value: Any) -> Any:
    return "" if value is None else value


def _is_none(value: Any) -> bool:
    return value is None or isinstance(value, _Null)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(
        undefined=StrictUndefined, finalize=_blank_null, autoescape=False, keep_trailing_newline=False
    )
    environment.tests["none"] = _is_none
    environment.filters["quoted"] = lambda value, name="text": quoted(str(name), str(value))
    environment.globals.clear()  # no range(), lipsum(), cycler(): a prompt needs none, and `lipsum` may be a column
    return environment


class Template:
    """One prompt. `begin` is the text before its first expression; `columns` are the input columns that it reads;
    `row_keys` those it reads as row["…"], or None if it uses `row` in another way and so reads every column."""

    def __init__(self, text: str, *, where: str) -> None:
        self.text = text
        self._where = where
        try:
            tree = _environment().parse(text)
            self._template = _environment().from_string(text)
        except TemplateSyntaxError as exc:
            raise SpecError(f"{where}: line {exc.lineno} of the template: {exc.message}.") from None
        if any(tree.find(kind) for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise SpecError(f"{where}: a template cannot include or import another.", hint="Write it out here.")
        names = meta.find_undeclared_variables(tree)
        self.uses_row = ROW in names
        self.row_keys = _row_keys(tree) if self.uses_row else frozenset()
        self.columns = frozenset(names - {ROW})
        self.begin = _literal_begin(tree)

    def reads(self, available: frozenset[str]) -> frozenset[str]:
        """Return the columns that the template reads. Raises SpecError for one that is missing."""
        if ROW in available:  # a real column called `row` wins over our variable
            columns = self.columns | ({ROW} if self.uses_row else set())
        elif self.row_keys is None:
            columns = self.columns | available
        else:
            columns = self.columns | self.row_keys
        missing = sorted(columns - available)
        if missing:
            raise SpecError(
                f"{self._where}: the template reads {missing[0]!r}, which is no column here.",
                hint=f"Columns: {', '.join(sorted(available))}",
            )
        return frozenset(columns)

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the text for a row. Raises RowError if an expression fails on its values."""
        values = {name: _NULL if value is None else value for name, value in row.items()}
        try:
            return self._template.render(values if ROW in values else {**values, ROW: values})
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as exc:
            raise RowError(f"the template failed on this row: {exc}", kind="template") from exc


def _literal_begin(tree: nodes.Template) -> str:
    first = tree.body[0] if tree.body else None
    data = first.nodes[0] if isinstance(first, nodes.Output) and first.nodes else None
    return data.data if isinstance(data, nodes.TemplateData) else ""


def _row_keys(tree: nodes.Template) -> frozenset[str] | None:
    keys: set[str] = set()
    uses = sum(1 for name in tree.find_all(nodes.Name) if name.name == ROW)
    found: list[nodes.Getitem | nodes.Getattr] = [*tree.find_all(nodes.Getitem), *tree.find_all(nodes.Getattr)]
    for item in found:
        if isinstance(item.node, nodes.Name) and item.node.name == ROW:
            key = item.attr if isinstance(item, nodes.Getattr) else getattr(item.arg, "value", None)
            method = isinstance(item, nodes.Getattr) and hasattr(dict, item.attr)  # row.items(), row.get(…)
            if isinstance(key, str) and not method:
                keys.add(key)
                uses -= 1
    return frozenset(keys) if uses == 0 else None


def is_blank(value: Any) -> bool:
    """True for null, or text of white space only."""
    return value is None or (isinstance(value, str) and not value.strip()) or isinstance(value, Undefined)
