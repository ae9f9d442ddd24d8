"""Lineage of this process: on where OpenLineage's own client would find a configuration."""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

log = logging.getLogger("tandem.lineage")
_SET_BY = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
_NESTED = "OPENLINEAGE__TRANSPORT"
_FILE = "openlineage.yml"
_PATIENCE_S = 10.0
_PACKAGE = "openlineage.client"


def requested(environment: Mapping[str, str] = os.environ, places: tuple[Path, ...] | None = None) -> bool:
    """Return whether variables, or a file in one of `places`, configure a transport. By default the places are this
    folder, and `.openlineage` in the home."""
    if environment.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if any(environment.get(name) for name in _SET_BY) or any(name.startswith(_NESTED) for name in environment):
        return True
    found = (Path(), Path("~/.openlineage").expanduser()) if places is None else places
    return any((place / _FILE).is_file() for place in found)


def installed() -> bool:
    try:
        return find_spec(_PACKAGE) is not None
    except ModuleNotFoundError:
        return False


def complaint() -> str:
    """Return a sentence if lineage is requested and cannot be sent, else ""."""
    if not requested() or installed():
        return ""
    return "OpenLineage is configured, but not installed; no lineage is sent: pip install 'tandem-pipeline[lineage]'"


def is_on() -> bool:
    return requested() and installed()


def send(make: Callable[[], Any]) -> None:
    """Make an event and send it by OpenLineage's client, which reads its own configuration. Whatever goes wrong is a
    line in the log; a backend that takes no event holds up its caller for a bounded time."""
    # Not a thread of an executor, whose end a process would wait for.
    context = contextvars.copy_context()  # by which the log knows the run
    sending = threading.Thread(target=context.run, args=(_send, make), daemon=True, name="tandem-lineage")
    sending.start()
    sending.join(_PATIENCE_S)
    if sending.is_alive():
        log.warning("the lineage backend did not take an event within %g s", _PATIENCE_S)


def _send(make: Callable[[], Any]) -> None:
    try:
        from openlineage.client import OpenLineageClient  # for those who want lineage

        client = OpenLineageClient()
        try:
            client.emit(make())
        finally:
            client.close(_PATIENCE_S)
    except Exception as exc:  # noqa: BLE001  of any transport, and of its configuration
        log.warning("an event of lineage was not sent: %s", type(exc).__name__)
