"""Tokens of clouds that are renewed while a run works: out of reach they are waited for, refused they stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from langchain_core.messages import HumanMessage

from pipeline.bedrock import bedrock_access
from pipeline.vertex import vertex_access
from schemas.errors import FatalModelError, TransientModelError
from stages.models.failures.errors import may_be_billed
from stages.models.wires.clients import client_of
from stages.models.wires.signing import SignedAccess

NOWHERE = "http://127.0.0.1:9"
ROLE = {"credentials_profile_name": "role", "region_name": "us-east-1"}
CONFIG = """[profile role]
role_arn = arn:aws:iam::123456789012:role/me
source_profile = base
[profile base]
aws_access_key_id = AKIDEXAMPLE
aws_secret_access_key = secret
"""


@pytest.fixture
def sts() -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """A server that refuses roles, with a status and a word."""
    says: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, code = says[-1]
            self.send_response(status)
            self.end_headers()
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>No.</Message></Error>"
            self.wfile.write(f"<ErrorResponse>{error}</ErrorResponse>".encode())

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", says
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A role of AWS's configuration, whose keys are renewed."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def test_keys_of_aws_that_cannot_be_renewed_now_are_waited_for(
    role: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", NOWHERE)
    with pytest.raises(TransientModelError, match="cannot be renewed now") as caught:
        await bedrock_access(ROLE).sign(f"{NOWHERE}/model", {}, b"")
    assert not may_be_billed(caught.value)


@pytest.mark.parametrize(("status", "code", "kind"), [
    (503, "ServiceUnavailable", TransientModelError), (400, "Throttling", TransientModelError),
    (403, "AccessDenied", FatalModelError), (400, "InvalidIdentityToken", FatalModelError),
    (400, "ExpiredToken", FatalModelError),
])  # fmt: skip
async def test_keys_of_aws_that_are_refused_stop_the_run(
    role: None, sts: tuple[str, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch, status: int, code: str,
    kind: type[Exception],
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts[0])
    sts[1].append((status, code))
    with pytest.raises(kind, match="AWS credentials cannot be renewed"):
        await bedrock_access(ROLE).sign(f"{NOWHERE}/model", {}, b"")


async def test_keys_of_a_container_that_cannot_be_read_now_are_waited_for(
    role: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{NOWHERE}/keys")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with pytest.raises(TransientModelError, match="cannot be renewed now"):
        await bedrock_access({"region_name": "us-east-1"}).sign(f"{NOWHERE}/model", {}, b"")


def _google(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """An exception of Google's, whose classes have no types."""
    return kind(*args, **kwargs)


def _unreachable() -> GoogleAuthError:
    error: GoogleAuthError = _google(TransportError, "no route")
    error.__cause__ = requests.exceptions.ReadTimeout()
    return error


def _of_the_machine() -> GoogleAuthError:
    error: GoogleAuthError = _google(RefreshError, "metadata")
    error.__cause__ = _unreachable()
    return error


@pytest.mark.parametrize(("error", "kind"), [
    (_unreachable(), TransientModelError), (_of_the_machine(), TransientModelError),
    (_google(RefreshError, "503", retryable=True), TransientModelError),
    (_google(RefreshError, "invalid_grant"), FatalModelError),
])  # fmt: skip
async def test_a_token_of_google_is_waited_for_unless_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: GoogleAuthError, kind: type[Exception]
) -> None:
    class Found:
        valid, quota_project_id = False, None

        def refresh(self, request: Any) -> None:
            raise error

    monkeypatch.setattr("google.auth.default", lambda scopes: (Found(), "p"))
    with pytest.raises(kind, match="cannot be renewed") as caught:
        await vertex_access({"project": "p", "location": "global"}).sign("https://x/y", {}, b"")
    assert not may_be_billed(caught.value)


async def test_a_token_that_takes_longer_than_a_call_is_not_a_call_that_may_be_billed() -> None:
    async def sign(url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        await asyncio.sleep(2)
        return {}

    access = SignedAccess(NOWHERE, sign, lambda: True)
    client = client_of("google_vertexai", "gemini-2.5-flash", {"project": "p", "location": "global"}, 0.05, access)
    with pytest.raises(TransientModelError, match="credentials") as caught:
        await client._agenerate([HumanMessage("Hm.")])
    assert not may_be_billed(caught.value)
