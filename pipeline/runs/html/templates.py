"""The templates that the report and the page share, with their filters."""

import datetime as dt

from jinja2 import Environment, PackageLoader, StrictUndefined


class Figure(str):
    """A number that is formatted already: tables set it to the right."""

    __slots__ = ()


class Name(str):
    """The name of a partition, or of a row by its identity: a page may make a link of it, the report does not."""

    of_partition: str
    of_row: str

    def __new__(cls, text: str, partition: str, row: str = "") -> "Name":
        found = super().__new__(cls, text)
        found.of_partition, found.of_row = partition, row
        return found


def environment() -> Environment:
    """Return the templates. Every value is escaped; one that is missing is an error."""
    found = Environment(
        loader=PackageLoader("pipeline", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["utc"] = utc
    found.tests["figure"] = is_figure
    found.tests["name"] = lambda value: isinstance(value, Name)
    return found


def utc(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def is_figure(value: object) -> bool:
    return isinstance(value, int | float | Figure) and not isinstance(value, bool)
