"""`--log-format`, which every command has."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from schemas.errors import UsageError

_NAME = "--log-format"
_FORMATS = ("text", "json")


def _checked(value: str) -> str:
    if value not in _FORMATS:
        raise UsageError(f"{_NAME} {value}: not one of {', '.join(_FORMATS)}.")
    return value


LogFormat = Annotated[
    str,
    typer.Option(
        _NAME, metavar="text|json", callback=_checked, help="The form of stderr: for a person, or a JSON object a line."
    ),
]


def log_format_in(arguments: Sequence[str]) -> str:
    """Return the format that arguments set, valid or not; it holds for complaints about them, too."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == _NAME:
            return value if equals else "".join(arguments[at + 1 : at + 2])
    return "text"


def add_to(command: Any) -> None:
    """Add the flag to a command and all below it. Its value is read by `log_format_in`."""
    command.params.append(_option())
    for inner in getattr(command, "commands", {}).values():
        add_to(inner)


def _option() -> Any:
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def _(log_format: LogFormat = "text") -> None: ...

    option = typer.main.get_command(probe).params[0]
    option.expose_value = False
    return option
