"""The command line as the documentation needs it: every command with its arguments and flags, and a parser that says
whether a command that a page shows is one of them."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from pipeline.cli.flags.app import app

COMMON = ("--json", "--quiet", "--verbose", "--log-format", "--help")


@dataclass(frozen=True)
class Command:
    """One command, its group's name in front: `outputs ls`."""

    name: str
    click: Any

    @property
    def arguments(self) -> list[Any]:
        return [param for param in self.click.params if param.param_type_name == "argument"]

    @property
    def flags(self) -> list[Any]:
        return [param for param in self.click.params if param.param_type_name == "option"]


def commands() -> Iterator[Command]:
    """Every command, in the order of `tandem --help`."""
    yield from _below(typer.main.get_command(app), "")


def _below(at: Any, name: str) -> Iterator[Command]:
    if not hasattr(at, "commands"):
        yield Command(name, at)
        return
    for word, command in at.commands.items():
        yield from _below(command, f"{name} {word}".strip())


def shown_in(script: str) -> Iterator[list[str]]:
    """The words behind `tandem` in each such command of a shell script, comments and redirections left out."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word[0] not in "&|;()<>":
                words.append(word)
                continue
            while words and ("=" in words[0] and words[0].split("=")[0].isupper()):
                words = words[1:]  # a variable that is set for this command
            if words and words[0].rsplit("/", 1)[-1] == "tandem":
                yield words[1:]
            words = []


def complaint_about(words: list[str]) -> str | None:
    """What is wrong with a command as to its name and flags; None where it parses."""
    if words in (["--help"], ["--version"]):
        return None
    known = {command.name: command for command in commands()}
    for size in (2, 1):
        found = known.get(" ".join(words[:size]))
        if found is not None:
            try:
                found.click.make_context(found.name, list(words[size:]))
            except Exception as exc:  # whichever click Typer has brought along
                return f"tandem {' '.join(words)}: {getattr(exc, 'message', None) or exc}"
            return None
    return f"tandem {' '.join(words)}: no such command"
