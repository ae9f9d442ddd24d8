"""Gemini on Vertex AI: Google's own SDK sends the same there, and the token is that of the application default
credentials."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google import genai
from google.genai import types
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from pipeline.client.preflight import refuse_missing_keys
from pipeline.vertex import vertex_access
from schemas.errors import FatalModelError, RowError, SpecError, TransientModelError, UsageError
from schemas.spec.model_names import model_name
from schemas.spec.sections import ModelChoice
from stages.models.embeddings.clients import embedder_of
from stages.models.embeddings.vectors import unpacked
from stages.models.settings.choice import ModelServices, limiter_of
from stages.models.wires.clients import client_of
from stages.models.wires.facts import facts_of
from tests.harness.protocols import protocol_of
from tests.harness.protocols.gemini import spelled
from tests.stages.models.wires.referee import Referee, a_referee
from tests.stages.models.wires.test_gemini import ASK, CASES, FLASH
from tests.stages.support import a_spec

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
PLACE: dict[str, Any] = {"project": "my-project", "location": "europe-west4"}
VARIABLES = (
    "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_VERTEX_BASE_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "nothing"))


@dataclass
class TokenServer:
    """Gives tokens to a service account; `renewed` counts them, and `status` is what it answers."""

    url: str = ""
    status: int = 200
    lasts_s: int = 3600
    renewed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self) -> bytes:
        with self.lock:
            self.renewed += 1
        if self.status != 200:
            return b'{"error": "invalid_grant", "error_description": "Account is gone."}'
        token = f"ya29.{self.renewed}"
        return orjson.dumps({"access_token": token, "expires_in": self.lasts_s, "token_type": "Bearer"})


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    found = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = found.answer()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/token"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture
def account(tokens: TokenServer, private_key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service account, which is that of the environment."""
    found = {
        "type": "service_account", "client_email": "me@my-project.iam.gserviceaccount.com", "token_uri": tokens.url,
        "private_key": private_key, "project_id": "my-project",
    }  # fmt: skip
    file = tmp_path / "account.json"
    file.write_bytes(orjson.dumps(found))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


async def ask(
    referee: Referee, model: str, messages: list[BaseMessage], params: dict[str, Any] | None = None, **kwargs: Any
) -> AIMessage:
    given = {**PLACE, "base_url": referee.url, **(params or {})}
    client = client_of("google_vertexai", model, given, 30, vertex_access(given))
    stop = kwargs.pop("stop", None)
    if tools := kwargs.pop("tools", None):
        choice = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
        kwargs = client.with_tools(tools, **choice, **kwargs)
    message = (await client._agenerate(messages, stop, **kwargs)).generations[0].message
    assert isinstance(message, AIMessage)
    return message


@pytest.mark.parametrize("name", CASES)
async def test_the_sdk_sends_the_same_in_vertex_mode(referee: Referee, account: None, name: str) -> None:
    case = CASES[name]
    ours = await ask(referee, case.model, case.messages, case.params, **case.kwargs)
    config: Any = {"automatic_function_calling": {"disable": True}, **case.sdk}
    client = genai.Client(vertexai=True, **PLACE, http_options={"base_url": referee.url})
    theirs = await client.aio.models.generate_content(model=case.model, contents=case.contents, config=config)
    await client.aio.aclose()
    (our_path, our_headers, our_body), (path, headers, body) = referee.sent
    assert our_body == spelled(body)
    assert our_path == path
    assert our_headers["authorization"] == "Bearer ya29.1"
    assert headers["authorization"] == "Bearer ya29.2"
    assert our_headers["x-goog-user-project"] == headers["x-goog-user-project"] == "payer"
    assert "x-goog-api-key" not in our_headers
    assert theirs.usage_metadata is not None
    assert ours.usage_metadata is not None
    assert ours.usage_metadata["output_tokens"] == theirs.usage_metadata.candidates_token_count


@pytest.mark.parametrize("model", [
    FLASH, "meta/llama-4", "publishers/google/models/gemini-2.5-pro", "projects/7/locations/us-east1/endpoints/9",
])  # fmt: skip
async def test_models_have_the_paths_of_the_sdk(referee: Referee, account: None, model: str) -> None:
    await ask(referee, model, ASK)
    client = genai.Client(vertexai=True, **PLACE, http_options={"base_url": referee.url})
    await client.aio.models.generate_content(model=model, contents="It is late.")
    await client.aio.aclose()
    (our_path, _, _), (path, _, _) = referee.sent
    assert our_path == path


@pytest.mark.parametrize("location", ["europe-west4", "global", "eu", "us"])
def test_each_location_has_the_host_of_the_sdk(account: None, location: str) -> None:
    client = genai.Client(vertexai=True, project="p", location=location)
    theirs = client._api_client._http_options
    client.close()
    access = vertex_access({"project": "p", "location": location})
    assert access.base_url == f"{str(theirs.base_url).rstrip('/')}/{theirs.api_version}"


async def test_an_express_key_needs_no_project(referee: Referee, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"project": None, "location": None}
    await ask(referee, FLASH, ASK, {**nowhere, "api_key": "AQ.express"})
    monkeypatch.setenv("GOOGLE_API_KEY", "AQ.express")
    await ask(referee, FLASH, ASK, nowhere)
    client = genai.Client(vertexai=True, api_key="AQ.express", http_options={"base_url": referee.url})
    await client.aio.models.generate_content(model=FLASH, contents="It is late.")
    await client.aio.aclose()
    assert len({path for path, _, _ in referee.sent}) == 1
    assert {headers["x-goog-api-key"] for _, headers, _ in referee.sent} == {"AQ.express"}
    assert all("authorization" not in headers for _, headers, _ in referee.sent)
    assert vertex_access({}).base_url == "https://aiplatform.googleapis.com/v1beta1"


async def test_a_project_goes_before_a_key_of_the_environment(
    referee: Referee, account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza-of-ai-studio")
    await ask(referee, FLASH, ASK)
    assert "x-goog-api-key" not in referee.sent[0][1]


async def test_many_calls_renew_the_token_once(referee: Referee, account: None, tokens: TokenServer) -> None:
    given = {**PLACE, "base_url": referee.url}
    client = client_of("google_vertexai", FLASH, given, 30, vertex_access(given))
    await asyncio.gather(*(client._agenerate(ASK) for _ in range(20)))
    assert tokens.renewed == 1
    tokens.lasts_s = 1
    short = client_of("google_vertexai", FLASH, given, 30, vertex_access(given))
    await short._agenerate(ASK)
    await short._agenerate(ASK)
    assert tokens.renewed == 3, "one that is about to expire is renewed"


async def test_credentials_that_are_refused_are_a_sentence(
    referee: Referee, account: None, tokens: TokenServer
) -> None:
    tokens.status = 400
    with pytest.raises(FatalModelError, match=r"credentials of Google Cloud cannot be renewed \(RefreshError\)"):
        await ask(referee, FLASH, ASK)
    assert referee.sent == []


@pytest.mark.parametrize(("params", "missing"), [
    ({}, "needs a project"), ({"location": "global"}, "needs a project"), ({"project": "p"}, "needs a location"),
])  # fmt: skip
def test_without_a_place_a_sentence_says_so(params: dict[str, str], missing: str) -> None:
    with pytest.raises(SpecError, match=missing) as caught:
        vertex_access(params)
    assert "GOOGLE_CLOUD_" in caught.value.hint


def test_the_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "us-east5")
    access = vertex_access({})
    assert access.base_url == "https://us-east5-aiplatform.googleapis.com/v1beta1"
    assert not access.has_credentials()


ERRORS: list[tuple[int, str, type[Exception], str]] = [
    (401, "Request had invalid authentication credentials.", FatalModelError, "the provider's credentials"),
    (403, "Permission 'aiplatform.endpoints.predict' denied on resource.", FatalModelError, "no access"),
    (404, "Publisher Model `projects/p/locations/l/publishers/google/models/x` was not found or your project does not "
          "have access to it.", FatalModelError, "not found at the provider"),
    (400, "The input token count exceeds the maximum.", RowError, "400"),
    (429, "Resource exhausted. Please try again later.", TransientModelError, "429"),
    (503, "The service is currently unavailable.", TransientModelError, "503"),
]  # fmt: skip


async def test_errors_in_googles_form_are_sorted(referee: Referee, account: None) -> None:
    protocol = protocol_of(f"/v1beta1/publishers/google/models/{FLASH}:generateContent")
    assert protocol is not None
    for status, message, kind, words in ERRORS:
        referee.next = [(status, protocol.error(status, message, None), {})]
        with pytest.raises(kind) as caught:
            await ask(referee, FLASH, ASK)
        assert words in f"{caught.value} {getattr(caught.value, 'hint', '')}"


def test_a_model_is_the_same_on_vertex() -> None:
    assert model_name("vertex:gemini-2.5-flash") == model_name("vertexai:gemini-2.5-flash")
    assert model_name("vertex:gemini-2.5-flash") == "google_vertexai:gemini-2.5-flash"
    assert facts_of("google_vertexai", "publishers/google/models/gemini-2.5-flash") == facts_of("google_genai", FLASH)


def test_each_place_has_its_own_limits() -> None:
    spec, services = a_spec({"uses": "x:y", "output": {"a": "str"}}), ModelServices()
    limiters = [
        limiter_of(ModelChoice(name=f"google_vertexai:{FLASH}", params={"project": "p", "location": place}),
                   spec.stages[0], spec, services)
        for place in ("us-east5", "eu", "us-east5")
    ]  # fmt: skip
    assert limiters[0]._queue is limiters[2]._queue
    assert limiters[0]._queue is not limiters[1]._queue


@pytest.mark.parametrize("version", ["beta", "v1alpha", "v1"])
@pytest.mark.parametrize("vertex", [True, False])
async def test_the_version_is_that_of_the_environment(
    referee: Referee, monkeypatch: pytest.MonkeyPatch, version: str, vertex: bool
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", version)
    options: Any = {"base_url": referee.url}
    client = genai.Client(vertexai=vertex, api_key="AIza", http_options=options)
    referee.make = lambda body: {
        "candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1},
    }
    await client.aio.models.generate_content(model=FLASH, contents="It is late.")
    await client.aio.aclose()
    given = {"base_url": referee.url, "api_key": "AIza"}
    provider, access = ("google_vertexai", vertex_access(given)) if vertex else ("google_genai", None)
    await client_of(provider, FLASH, given, 30, access)._agenerate(ASK)
    assert referee.sent[0][0] == referee.sent[1][0]


# Embeddings -----------------------------------------------------------------------------------------------------------

_BATCH = {"embeddings": [{"values": [0.0, 0.5]}, {"values": [1.0, 0.5]}], "usageMetadata": {"promptTokenCount": 6}}
_ONE = {"embedding": {"values": [0.0, 0.5]}, "usageMetadata": {"promptTokenCount": 3}}
_PREDICTED = {
    "predictions": [
        {"embeddings": {"values": [float(at), 0.5], "statistics": {"token_count": 3, "truncated": False}}}
        for at in range(2)
    ]
}


@pytest.mark.parametrize(("model", "texts", "answer"), [
    ("gemini-embedding-001", ["one", "two"], _BATCH), ("gemini-embedding-001", ["one"], _ONE),
    ("text-embedding-005", ["one", "two"], _PREDICTED),
], ids=["many", "one", "predicted"])  # fmt: skip
async def test_the_sdk_embeds_the_same(
    referee: Referee, account: None, model: str, texts: list[str], answer: dict[str, Any]
) -> None:
    referee.next = [(200, answer, {}), (200, answer, {})]
    given = {**PLACE, "base_url": referee.url, "task_type": "clustering", "dimensions": 64}
    ours = embedder_of("google_vertexai", model, given, 30, vertex_access(given))
    found = await asyncio.gather(*(ours._agenerate([HumanMessage(text)]) for text in texts))
    client = genai.Client(vertexai=True, **PLACE, http_options={"base_url": referee.url})
    config = types.EmbedContentConfig(task_type="CLUSTERING", output_dimensionality=64)
    theirs = await client.aio.models.embed_content(model=model, contents=list(texts), config=config)
    await client.aio.aclose()
    (our_path, our_headers, our_body), (path, _, body) = referee.sent
    assert our_path == path
    assert our_body == body
    assert our_headers["authorization"].startswith("Bearer ya29.")
    assert theirs.embeddings is not None
    messages: list[Any] = [one.generations[0].message for one in found]
    assert [unpacked(message.content) for message in messages] == [one.values for one in theirs.embeddings]
    assert [message.usage_metadata["input_tokens"] for message in messages] == [3] * len(texts)


# Before a run ---------------------------------------------------------------------------------------------------------


def test_check_names_the_credentials_that_are_not_there(account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": f"vertex:{FLASH}", "params": PLACE}
    spec = a_spec({"uses": "extract", "model": model, "prompt": "{{ text }}", "output": {"a": "str"}})
    refuse_missing_keys(spec)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    with pytest.raises(UsageError, match=r"'google_vertexai:gemini-2.5-flash' needs credentials of Google Cloud"):
        refuse_missing_keys(spec)
