"""`tandem` as a process of its own, in a folder of its own, with nothing of the developer's environment."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TANDEM = str(Path(sys.executable).parent / "tandem")
_SCRUBBED = (
    "TEMPORAL_", "AWS_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "TANDEM_", "LANGSMITH_", "LANGCHAIN_",
    "COLUMNS",
)  # fmt: skip
DAYS = ("day=2026-11-01", "day=2026-11-02", "day=2026-11-03")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    def ok(self) -> Result:
        assert self.code == 0, self
        return self


def environment(cwd: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SCRUBBED)}
    return {**kept, "TANDEM_HOME": str(cwd / ".home"), "NO_COLOR": "1", **(env or {})}


def tandem(*args: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 300) -> Result:
    """Run a command to its end."""
    done = subprocess.run(
        [TANDEM, *args], cwd=cwd, env=environment(cwd, env), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


class Started:
    """A command at work, its streams in files."""

    def __init__(self, *args: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        Started.number += 1
        self._out, self._err = cwd / f"{Started.number}.out", cwd / f"{Started.number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [TANDEM, *args], cwd=cwd, env=environment(cwd, env), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip

    number = 0

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals, timeout_s: float = 150) -> Result:
        """Signal it, unless it has ended, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 300) -> Result:
        return Result(self.process.wait(timeout_s), self.out, self.err)


def eventually(true: Callable[[], bool], what: str, timeout_s: float = 150) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


# Projects ----------------------------------------------------------------------------------------------------------


def rows(count: int, *, first: int = 0, note: str = "n") -> list[dict[str, Any]]:
    """Rows over three days, each with a text of its own."""
    start = dt.datetime.fromisoformat("2026-11-01")
    return [
        {
            "id": number,
            "created_at": (start + dt.timedelta(days=number % 3, minutes=number // 3)).isoformat(),
            "body": f"message number {number} about a thing",
            "note": f"{note}{number}",
        }
        for number in range(first, first + count)
    ]


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    lines = [",".join(table[0]), *(",".join(str(value) for value in row.values()) for row in table)]
    path.write_text("\n".join(lines) + "\n")


# After `tandem review`, a run that waited publishes by itself.
_PUBLISHES_ON = 20.0
_PUBLISH = {
    ("run",), ("backfill",), ("runs", "resume"), ("runs", "retry"), ("runs", "cancel"), ("rejects", "retry"),
    ("review", "answer"), ("review", "import"), ("outputs", "rollback"), ("outputs", "repair"), ("forget",),
}  # fmt: skip


def former_files(sink: Path) -> list[str]:
    """Files that a glob over `data/` reads, and no live generation names."""
    live: set[str] = set()
    for folder in {path.parent for path in sink.glob("_tandem/commits/**/*.json")}:
        text = max(folder.glob("*.json")).read_text()
        if not text.endswith("}"):
            return []  # damaged by the test: what is live is unknown
        manifest = json.loads(text)
        live |= {file["key"] for file in manifest["files"]}
    files = (path for path in sink.glob("data/**/*.parquet") if path.is_file())  # a folder may be `file=x.parquet`
    return sorted({str(path.relative_to(sink)) for path in files} - live)


@dataclass
class Project:
    """A folder with `rows.csv` and `tandem.yaml`, and how to call `tandem` in it."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls, folder: Path, env: Mapping[str, str] | None = None, *, count: int = 30, model: str = "offline:lexical"
    ) -> Project:
        write_csv(folder / "rows.csv", rows(count))
        project = cls(folder, dict(env or {}))
        project.spec = {
            "name": "tickets",
            "source": {"path": "rows.csv", "key": ["id"]},
            "partition": {"by": "time", "column": "created_at", "every": "day"},
            "stages": [
                {
                    "name": "triage",
                    "uses": "extract",
                    "model": model,
                    "prompt": "{{ body }}",
                    "output": {"mood": {"type": "enum", "values": ["good", "bad"]}, "summary": "str"},
                }
            ],
            "sink": {"path": "out"},
        }
        project.write()
        return project

    @property
    def stage(self) -> dict[str, Any]:
        stage: dict[str, Any] = self.spec["stages"][0]
        return stage

    def write(self) -> None:
        (self.folder / "tandem.yaml").write_text(yaml.safe_dump(self.spec, sort_keys=False))

    @property
    def _spec_text(self) -> str:
        file = self.folder / "tandem.yaml"
        return file.read_text() if file.exists() else ""

    def tandem(self, *args: str, timeout_s: float = 90, **env: str) -> Result:
        """Run a command to its end. When one that publishes has returned, a plain glob must read each row once."""
        result = tandem(*args, cwd=self.folder, env={**self.env, **env}, timeout_s=timeout_s)
        publishes = args[:1] in _PUBLISH or args[:2] in _PUBLISH
        table = any(f"format: {kind}" in self._spec_text for kind in ("delta", "iceberg"))
        plain = not table and "--detach" not in args
        if publishes and plain and result.code in (0, 1, 3):
            over = time.monotonic() + (_PUBLISHES_ON if args[:1] == ("review",) else 0)
            while (extra := former_files(self.folder / "out")) and time.monotonic() < over:
                time.sleep(0.1)
            assert not extra, f"{args}: a glob reads former files: {extra}"
        return result

    def start(self, *args: str, **env: str) -> Started:
        return Started(*args, cwd=self.folder, env={**self.env, **env})

    def published(self) -> list[Path]:
        """Everything that a reader could take for output."""
        out = self.folder / "out"
        found = [*out.glob("data/**/*"), *out.glob("_tandem/commits/**/*")]
        return [path for path in found if path.is_file()]
