"""Prompt and system text of a stage, and the rows that need no call."""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from schemas.errors import RowError
from stages.contract import StageSetup
from stages.models.prompt_cache.prefix import common
from stages.text.templates import Template, is_blank

_LEAST_BEGIN = 256  # characters of a prompt, from which its beginning is worth a part of its own


class Prompts:
    """Prompt and system text of a stage. A row whose prompt reads only blanks needs no call. `columns` are those that
    the prompt reads; `are_common`: what comes before the row's own turn is the same for all rows, and may be cached."""

    def __init__(self, setup: StageSetup) -> None:
        stage = setup.stage
        available = frozenset(setup.columns.names)
        self._prompt = Template(stage.prompt or "", where=f"{setup.where}: prompt")
        self._system = Template(stage.system, where=f"{setup.where}: system") if stage.system else None
        self.columns = self._prompt.reads(available)
        self._caches = stage.cache == "on"
        by_row = self._system is not None and (self._system.columns or self._system.uses_row)
        self.are_common = self._caches and not by_row
        begin = self._prompt.begin
        self._begin = begin.rfind("\n") + 1 or len(begin)
        self._when_empty = stage.when_empty
        self.reads = tuple(sorted(self.columns | (self._system.reads(available) if self._system else frozenset())))

    def is_empty(self, row: Mapping[str, Any]) -> bool:
        """True if the row needs no call. Raises RowError if it has to be rejected."""
        if not self.columns or self._when_empty == "call" or not all(is_blank(row[name]) for name in self.columns):
            return False
        if self._when_empty == "reject":
            raise RowError("every column of the prompt is blank", kind="empty")
        return True

    def text(self, row: Mapping[str, Any]) -> str:
        return self._prompt.render(row)

    def question(self, row: Mapping[str, Any]) -> HumanMessage:
        """Return the user's message: the prompt as it stands."""
        message = HumanMessage(self.text(row))
        return common(message, self._begin) if self.are_common and self._begin >= _LEAST_BEGIN else message

    def system(self, row: Mapping[str, Any], *ours: str) -> list[BaseMessage]:
        """Return the system message, the user's text after ours; none if both are empty."""
        texts = [*ours, *([self._system.render(row)] if self._system else [])]
        if not texts:
            return []
        message = SystemMessage("\n\n".join(texts))
        return [common(message) if self.are_common else message]

    def fixed(self, text: str) -> SystemMessage:
        """Return a system message that is the same for all rows."""
        return common(SystemMessage(text)) if self._caches else SystemMessage(text)
