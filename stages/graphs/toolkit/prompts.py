"""A stage's prompt and system text, and the rows that need no call."""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage

from schemas.errors import RowError
from stages.contract import Build
from stages.text.templates import Template, is_blank


class Prompts:
    """A stage's prompt and system. A row whose prompt reads only blanks is answered, or refused, without a call."""

    def __init__(self, wanted: Build) -> None:
        stage = wanted.stage
        available = frozenset(wanted.columns.names)
        self._prompt = Template(stage.prompt or "", where=f"{wanted.where}: prompt")
        self._system = Template(stage.system, where=f"{wanted.where}: system") if stage.system else None
        self._asks = self._prompt.reads(available)
        self._when_empty = stage.when_empty
        self.reads = tuple(sorted(self._asks | (self._system.reads(available) if self._system else frozenset())))

    def is_empty(self, row: Mapping[str, Any]) -> bool:
        """Whether the row needs no call. Raises RowError where it shall be rejected."""
        if not self._asks or self._when_empty == "call" or not all(is_blank(row[name]) for name in self._asks):
            return False
        if self._when_empty == "reject":
            raise RowError("every column of the prompt is blank", kind="empty")
        return True

    def text(self, row: Mapping[str, Any]) -> str:
        return self._prompt.render(row)

    def system(self, row: Mapping[str, Any], *ours: str) -> list[BaseMessage]:
        """The system message, the user's words after ours; none where nobody says anything."""
        said = [*ours, *([self._system.render(row)] if self._system else [])]
        return [SystemMessage("\n\n".join(said))] if said else []
