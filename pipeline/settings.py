"""The environment of a process: what of it is ours (`TANDEM_…`), and `${NAME}` in specs."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import SpecError
from schemas.spec.sections import Spec

TASK_QUEUE = "tandem"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# The rendered text of a prompt may hold `${x}` of its own; only settings are expanded; hooks when they
# are called, as only the worker that calls them needs their secrets.
_KEPT = frozenset(("prompt", "system", "query", "sql", "description", "output", "notify"))


def home_of(base: Path) -> Path:
    """Where the embedded server keeps its file: `TANDEM_HOME`, else `.tandem/` beside the spec."""
    given = os.environ.get("TANDEM_HOME")
    return Path(given).expanduser().absolute() if given else base.absolute() / ".tandem"


def spool_folder() -> Path:
    """Where workers keep unflushed journal records: `TANDEM_SPOOL`, else one folder a user among temporary files."""
    given = os.environ.get("TANDEM_SPOOL")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"tandem-spool-{os.getuid()}"


def spend_folder() -> Path:
    """Where workers count what they spend of a budget, beside the spools."""
    return spool_folder() / "purses"  # as earlier versions call it: what their dead processes spent is read here


def temporal_configured() -> bool:
    """Has the user named a Temporal, by variables or by a profile?"""
    if os.environ.get("TEMPORAL_ADDRESS") or os.environ.get("TEMPORAL_PROFILE"):
        return True
    file = os.environ.get("TEMPORAL_CONFIG_FILE")
    return bool(file and Path(file).exists())


def task_queue() -> str:
    return os.environ.get("TANDEM_TASK_QUEUE") or TASK_QUEUE


def expanded(spec: Spec) -> Spec:
    """The spec with `${NAME}` replaced from this process's environment. Raises SpecError naming an unset variable."""
    data = spec.model_dump(mode="json")
    if "${" not in str(data):
        return spec
    return Spec.model_validate(_expand(data, "spec", os.environ))


def expanded_text(text: str, where: str) -> str:
    """The same for one value. Raises SpecError."""
    return str(_expand(text, where, os.environ))


def _expand(value: Any, where: str, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: item if key in _KEPT else _expand(item, f"{where}.{key}", environment) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{where}[{at}]", environment) for at, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        for name in _REFERENCE.findall(value):
            if name not in environment:
                raise SpecError(f"{where}: the environment variable {name} is not set.", hint=f"export {name}=…")
        return _REFERENCE.sub(lambda match: environment[match[1]], value)
    return value
