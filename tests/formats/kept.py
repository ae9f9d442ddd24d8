"""A kept sink: `<name>.tar.xz` holds the project that an earlier version worked in, `<name>.json` what must hold of it.

What must hold is told by the command line and `pipeline.consume` alone, once by the version that wrote the sink and in
each test by the present one; so it outlives every move of the code behind them. Paths stand as `{folder}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import lzma
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import consume
from tests.cli.support import Project, environment
from tests.harness.model_server import ModelServer

HERE = Path(__file__).parent
# Where sinks are made: requests of runs name the folder of their spec, and this one is on nobody's machine.
MADE_IN = Path("/srv/tandem-fixture")
# The base URL is a part of what was asked, so it is the same for ever; below the ports that systems give away.
PORT = 11_873
ENV = {"OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1", "OPENAI_API_KEY": "sk-test-harness"}


@contextlib.contextmanager
def model_at_its_port(latency_ms: float = 0) -> Iterator[ModelServer]:
    """The model that was asked then. One process at a time has it, of all test runs on this machine."""
    with (Path(tempfile.gettempdir()) / f"tandem-port-{PORT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", PORT))
            except OSError as exc:
                raise AssertionError(f"port {PORT}, which kept requests name, is taken by another program") from exc
        with ModelServer.start(port=PORT, latency_ms=latency_ms) as server:
            yield server


# As an archive --------------------------------------------------------------------------------------------------------


def pack(folder: Path, archive: Path) -> None:
    """The same bytes for the same files: in order, of nobody. Times stay, as some things are told by their age."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = int(info.mtime)
        return info

    with (
        lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            tar.add(path, str(path.relative_to(folder)), filter=plain)


def unpack(name: str, folder: Path) -> Kept:
    with tarfile.open(HERE / f"{name}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return Kept(folder, json.loads((HERE / f"{name}.json").read_text()))


class Kept:
    """A project in its folder, and what was `told` of it when it was made."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.project = Project(folder, dict(ENV))
        self.told = told

    @property
    def sink(self) -> Path:
        return self.project.folder / "out"

    def edit(self, old: str, new: str) -> None:
        spec = self.project.folder / "tandem.yaml"
        text = spec.read_text()
        assert old in text
        spec.write_text(text.replace(old, new))


# What is told of a sink -----------------------------------------------------------------------------------------------


def told(project: Project, runs: Sequence[str]) -> dict[str, Any]:
    """All that commands say of a sink without working on it."""
    commands = {
        "plan": ("plan",),
        "verify": ("outputs", "verify"),
        "files": ("outputs", "files"),
        "outputs": ("outputs", "ls"),
        "partitions": ("partitions", "list"),
        "rejects": ("rejects", "ls"),
        "rejected_rows": ("rejects", "show"),
        "questions": ("review", "ls"),
        "runs": ("runs", "list"),
        **{f"run {name}": ("runs", "show", name) for name in runs},
    }

    found = dict(zip(commands, answers(project, list(commands.values())), strict=True))
    estimate, found["plan"] = found["plan"]["estimate"], found["plan"]["partitions"]
    found["calls"] = estimate["calls"]
    for line in (*found["plan"], *found["partitions"]):
        del line["reason"]  # prose, and of today's code
    for name in ("files", "bytes", "notes"):
        del found["verify"][name]  # of what earlier generations left, too, which is no promise
    for report in (*found["runs"], *(found[f"run {name}"] for name in runs)):
        del report["billed_over_needed"]  # worked out by today's code
    found["data"] = data(project.folder / "out")
    found["data_bytes"] = data_bytes(project.folder / "out")
    found["columns"] = {name: str(kind) for name, kind in consume.scan(project.folder / "out").collect_schema().items()}
    result: dict[str, Any] = placed(found, project.folder)
    return result


def answers(project: Project, commands: Sequence[tuple[str, ...]]) -> list[Any]:
    """What each command says with `--json`."""
    done = subprocess.run(
        [sys.executable, str(HERE / "several.py")], cwd=project.folder, env=environment(project.folder, project.env),
        input=json.dumps([[*command, "--json"] for command in commands]), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = []
    for command, (code, out) in zip(commands, json.loads(done.stdout), strict=True):
        assert code == 0, (command, code, out)
        found.append(json.loads(out))
    return found


def placed(value: Any, folder: Path) -> Any:
    """Without the folder that it lies in, nor that in which it was made, which reports of runs name."""
    if isinstance(value, dict):
        return {key: placed(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [placed(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(rf"{re.escape(str(MADE_IN))}/\w+", "{folder}", value.replace(str(folder), "{folder}"))


def data(sink: Path) -> dict[str, dict[str, Any]]:
    """What readers get of each partition: its generation, rows and a digest of them, whatever file they lie in."""
    found = {}
    for partition, generation in consume.partitions(sink).items():
        if not list(consume.manifests(sink, partition)):
            continue
        rows = consume.scan(sink, partition).collect()
        found[partition] = {"generation": generation, "rows": rows.height, "sha256": digest(rows)}
    return found


def digest(rows: pl.DataFrame) -> str:
    kept = rows.select(sorted(name for name in rows.columns if name != "tandem_generation"))
    return hashlib.sha256(kept.write_ndjson().encode()).hexdigest()


def data_bytes(sink: Path) -> dict[str, list[str]]:
    """The SHA-256 of each committed data file."""
    found: dict[str, list[str]] = {}
    for file in consume.files(sink):
        found.setdefault(file.partition, []).append(hashlib.sha256(Path(file.path).read_bytes()).hexdigest())
    return found


def differences(then: Any, now: Any, at: str = "") -> Iterator[str]:
    """Where what was told is no longer so. Keys may have come; none may have gone or say something else."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            if key in now:
                yield from differences(value, now[key], f"{at}/{key}")
            else:
                yield f"{at}/{key}: gone"
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from differences(one, other, f"{at}/{number}")
    elif then != now:
        yield f"{at}: {json.dumps(then)[:300]} became {json.dumps(now)[:300]}"
