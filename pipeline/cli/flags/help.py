"""The list of commands in `tandem --help`: in groups, those of a first day first."""

from typing import Any

from typer.core import TyperGroup

from pipeline.cli import log_format

_GROUPS = {
    "A first day, in this order": ("demo", "init", "check", "try", "run"),
    "Plan, repeat, steer": ("plan", "backfill", "runs", "schedule"),
    "Look at results, repair them": ("ui", "partitions", "outputs", "rejects", "review", "forget"),
    "Servers": ("dev", "worker"),
}
_MORE = "More"


class GroupedCommands(TyperGroup):
    """The list of commands by group; a command of no group is under the last heading. Each has the flags of all."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        log_format.add_to(self)

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in self._grouped().values() for name in names]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one list for each group; each command by its first sentence."""
        width = max(len(name) for name in self.commands)
        for title, names in self._grouped().items():
            if names:
                with formatter.section(title):
                    formatter.write_dl(
                        [(name.ljust(width), self.commands[name].get_short_help_str(limit=120)) for name in names]
                    )

    def _grouped(self) -> dict[str, list[str]]:
        known = {name for names in _GROUPS.values() for name in names}
        grouped = {title: [name for name in names if name in self.commands] for title, names in _GROUPS.items()}
        return {**grouped, _MORE: [name for name in self.commands if name not in known]}
