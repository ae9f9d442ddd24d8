"""What tools that know their schemas say of the files in `infra/`. Grafana itself is not among them: whether a panel
looks well is for a person to see."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

INFRA = Path(__file__).parents[2] / "infra"
_BIN = Path(sys.executable).parent
_PACKAGES = {"promtool": "apt-get install prometheus"}  # what no Python package brings


class ToolAbsent(Exception):
    """A tool is not installed; the message says how to."""


def complaints(infra: Path = INFRA) -> Iterator[str]:
    """Yield a line for each fault. Raises ToolAbsent."""
    for name, check in CHECKS.items():
        yield from (f"infra/{name}: {line}" for line in check(infra / name))


def tool(name: str) -> str:
    beside = _BIN / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        how = _PACKAGES.get(name, "make .venv/.dev")
        raise ToolAbsent(f"{name} is not installed; on Debian: {how}")
    return found


def _by(*command: str) -> Callable[[Path], Iterator[str]]:
    def check(file: Path) -> Iterator[str]:
        done = subprocess.run(
            [tool(command[0]), *command[1:], file.name], cwd=file.parent, capture_output=True, text=True, check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        if done.returncode:
            yield (done.stdout + done.stderr).strip()

    return check


def _dashboard(file: Path) -> Iterator[str]:
    """Read the dashboard with Grafana's own models, and write it again: what they do not know, they lose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a newer form, which Grafana before 12 cannot read
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    text = json.loads(file.read_text(encoding="utf-8"))
    try:
        read = json.loads(JSONEncoder().encode(Dashboard.from_json(text)))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        yield f"{type(exc).__name__}: {exc}"
        return
    lost = list(_lost(text, read, ""))
    yield from lost or _places(text)


def _collector(file: Path) -> Iterator[str]:
    """Check that pipelines name what is declared, and that nothing is declared for none: the collector's own check is
    not at hand."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    kinds = ("receivers", "processors", "exporters")
    if unknown := config.keys() - {*kinds, "service"}:
        yield f"{sorted(unknown)[0]}: no such section"
    pipelines = config["service"]["pipelines"].values()
    for kind in kinds:
        named = {name for pipeline in pipelines for name in pipeline.get(kind, ())}
        for name in sorted(named ^ config.get(kind, {}).keys()):
            yield f"{kind}: {name} is {'not declared' if name in named else 'in no pipeline'}"


def _lost(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{place}/{key}: no such key"
            else:
                yield from _lost(value, after[key], f"{place}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _lost(one, other, f"{place}/{number}")
    elif before != after:
        yield f"{place}: {before!r} is read as {after!r}"


def _places(dashboard: dict[str, Any]) -> Iterator[str]:
    """The models take any value: what Grafana needs to tell panels apart, and to place them, is checked here."""
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        yield "two panels have one id"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if taken & cells or at["x"] + at["w"] > 24:
            yield f"panel {panel['title']!r} lies over another, or beside the page"
        taken |= cells


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "prometheus/prometheus.yaml": _by("promtool", "check", "config"),
    "prometheus/compose.yaml": _by("promtool", "check", "config"),
    "collector.yaml": _collector,
    "prometheus/tandem.rules.yaml": _by("promtool", "check", "rules"),
    "prometheus/tandem.rules.test.yaml": _by("promtool", "test", "rules"),
    "grafana/tandem.json": _dashboard,
    "compose.yaml": _by("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
    "Dockerfile": _by("hadolint", "--failure-threshold", "warning"),
}
