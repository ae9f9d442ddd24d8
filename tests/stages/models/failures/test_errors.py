"""One table sorts every failed model call, whoever raises it."""

import inspect
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from schemas.errors import FatalModelError, RowError, TandemError, TransientModelError
from stages.models.failures.errors import classify, describe, from_status, may_be_billed
from stages.models.failures.retry_after import retry_after

KEY = "OPENAI_API_KEY"
BILLING_AD = (
    "Rate limit reached for gpt-4o on requests per day (RPD): Limit 200. You can increase your rate limit by adding a "
    "payment method to your account at https://platform.openai.com/account/billing."
)


def sorted_as(status: int, text: str = "", headers: dict[str, str] | None = None) -> TandemError:
    return from_status(status, text, headers=headers or {}, model="m", setting=KEY)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529, 599])
def test_what_may_pass_is_transient(status: int) -> None:
    assert isinstance(sorted_as(status), TransientModelError)


@pytest.mark.parametrize(
    ("status", "text", "hint"),
    [
        (401, "no such key", KEY),
        (402, "", KEY),
        (403, "region", KEY),
        (404, "no model", "model:"),
        (405, "", "base URL"),
        (302, "", "base URL"),
        (429, '{"error": {"code": "insufficient_quota", "message": "pay"}}', KEY),
        (429, "You exceeded your current quota, please check your plan and billing details.", KEY),
        (400, "Your credit balance is too low to access the Anthropic API.", KEY),
        (400, '{"error": {"message": "The model `gpt-9` does not exist", "code": "model_not_found"}}', "model:"),
    ],
)
def test_what_no_further_call_could_change_is_fatal_and_names_the_setting(status: int, text: str, hint: str) -> None:
    failure = sorted_as(status, text)
    assert isinstance(failure, FatalModelError)
    assert hint in failure.hint
    assert failure.exit_code == 3


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "bad", "bad_request"),
        (422, "bad", "bad_request"),
        (400, '{"error": {"code": "context_length_exceeded", "message": "too long"}}', "context_length"),
        (413, "", "context_length"),
        (400, '{"error": {"code": "content_filter"}}', "content_filter"),
        (403, "Your chosen model requires moderation and your input was flagged", "content_filter"),
        (400, "file-abc does not exist", "bad_request"),
    ],
)
def test_what_is_wrong_with_a_row_rejects_it(status: int, text: str, kind: str) -> None:
    failure = sorted_as(status, text)
    assert isinstance(failure, RowError)
    assert failure.kind == kind


@pytest.mark.parametrize(
    "text", [BILLING_AD, "You exceeded your current quota (GenerateRequestsPerMinute). Please retry in 34.07s."]
)
def test_a_rate_limit_that_speaks_of_billing_is_still_a_rate_limit(text: str) -> None:
    assert isinstance(sorted_as(429, text), TransientModelError)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "99999999999"}, 86_400.0),
        ({"Retry-After": format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)}, 0.0),
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"retry-after-ms": "inf"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "-1.5", "Retry-After-Ms": "-3"}, None),
        ({"Retry-After": "Thu Jan  1 00:00:00 2026"}, 0.0),
        ({"Retry-After": "1000000001"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:07 GMT", "Date": "Thu, 01 Jan 2026 00:00:05 GMT"}, 2.0),
    ],
)
def test_retry_after_in_seconds_milliseconds_or_nonsense(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    told = retry_after({"Retry-After": when})
    assert told is not None
    assert 85 <= told <= 90


@pytest.mark.parametrize(
    "said",
    [
        "Incorrect API key provided: sk-proj-abcdef123456. See https://x",
        "Incorrect API key provided: gsk_abcdef123456",
        "https://host/v1?key=AIzaSyA1234567890abcdefg failed",
        "Bearer abc.def.ghi was refused",
        "key my-very-own-secret is unknown",
    ],
)
def test_no_message_holds_a_credential(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "my-very-own-secret")
    secrets = ("abcdef123456", "AIza", "abc.def", "my-very-own-secret")
    for status in (400, 401, 429, 500):
        assert not any(secret in str(sorted_as(status, said)) for secret in secrets)
    assert "abcdef123456" not in str(describe(ValueError("sk-proj-abcdef123456")))


def test_a_message_is_short_and_the_providers_own() -> None:
    failure = sorted_as(500, '{"error": {"message": "' + "a" * 1000 + '"}}')
    assert len(failure.message) < 260
    assert "it broke" in sorted_as(500, '{"error": {"message": "it\\n broke"}}').message


# Foreign exceptions ------------------------------------------------------------------------------------------------


def openai_errors() -> list[Any]:
    openai = pytest.importorskip("openai")
    httpx: Any = sys.modules.get("httpx2") or sys.modules["httpx"]  # whichever this openai imported
    request = httpx.Request("POST", "http://x/v1")
    statuses = {
        "BadRequestError": 400, "AuthenticationError": 401, "PermissionDeniedError": 403, "NotFoundError": 404,
        "ConflictError": 409, "UnprocessableEntityError": 422, "RateLimitError": 429, "InternalServerError": 500,
        "OAuthError": 401, "APIStatusError": 503, "APIResponseValidationError": 200,
    }  # fmt: skip
    made: list[Any] = []
    classes: list[tuple[str, Any]] = inspect.getmembers(openai, inspect.isclass)
    for name, cls in classes:
        if not issubclass(cls, openai.OpenAIError) or name.startswith(("_", "WebSocket")):
            continue
        if name in statuses:
            response = httpx.Response(statuses[name], request=request, headers={"retry-after": "2"})
            body = {"error": {"message": "why"}}
            extra = {} if name in ("OAuthError", "APIResponseValidationError") else {"message": "why"}
            made.append(cls(response=response, body=body, **extra))
        elif name == "APIError":
            made.append(cls("why", request, body=None))
        elif issubclass(cls, openai.APIConnectionError):
            made.append(cls(request=request))
        elif "FinishReason" in name:
            made.append(cls(completion=SimpleNamespace(usage=None)))
        else:
            made.append(cls("The api_key client option must be set"))
    return made


def test_every_exception_of_the_openai_sdk_is_sorted() -> None:
    errors = openai_errors()
    assert len(errors) >= 14
    by_name = {type(exc).__name__: classify(exc, model="m", setting=KEY) for exc in errors}
    assert {name for name, failure in by_name.items() if failure is None} == set()
    fatal = {"AuthenticationError", "OAuthError", "PermissionDeniedError", "NotFoundError", "OpenAIError"}
    row = {"BadRequestError", "UnprocessableEntityError", "LengthFinishReasonError", "ContentFilterFinishReasonError"}
    for name, failure in by_name.items():
        expected = FatalModelError if name in fatal else RowError if name in row else TransientModelError
        assert isinstance(failure, expected), (name, failure)
    limited = by_name["RateLimitError"]
    assert isinstance(limited, TransientModelError)
    assert limited.retry_after == 2.0


class ThrottlingException(Exception):  # botocore makes such classes at run time
    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}


class ClientError(ThrottlingException):
    pass


class Coded(Exception):  # google.genai.errors.APIError
    def __init__(self, code: int) -> None:
        super().__init__("said")
        self.code = code


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (ThrottlingException("ThrottlingException", 400), TransientModelError),
        (ClientError("TooManyRequestsException", 429), TransientModelError),
        (ClientError("ValidationException", 400), RowError),
        (ClientError("AccessDeniedException", 403), FatalModelError),
        (Coded(503), TransientModelError),
        (Coded(400), RowError),
        (TimeoutError(), TransientModelError),
        (ConnectionResetError(), TransientModelError),
        (aiohttp.ServerDisconnectedError(), TransientModelError),
        (aiohttp.ClientPayloadError(), TransientModelError),
    ],
)
def test_other_sdks_are_read_by_what_their_exceptions_carry(exc: Exception, expected: type[TandemError]) -> None:
    assert isinstance(classify(exc, model="m", setting="AWS"), expected)


def test_a_bug_is_no_failed_call() -> None:
    assert classify(KeyError("x"), model="m", setting=KEY) is None
    assert classify(ValueError("x"), model="m", setting=KEY) is None


def test_ours_stay_as_they_are() -> None:
    failure = RowError("x", kind="y")
    assert classify(failure, model="m", setting=KEY) is failure


def test_only_a_call_that_was_sent_may_be_billed() -> None:
    def caused(cause: BaseException) -> TransientModelError:
        failure = TransientModelError("x")
        failure.__cause__ = cause
        return failure

    assert may_be_billed(TimeoutError())
    assert may_be_billed(caused(aiohttp.ServerDisconnectedError()))
    assert not may_be_billed(caused(aiohttp.ConnectionTimeoutError()))
    assert not may_be_billed(TransientModelError("HTTP 500"))


def test_a_reject_says_kind_message_and_raw_in_writable_text() -> None:
    assert describe(RowError("m", kind="k", raw="r")) == {"kind": "k", "message": "m", "raw": "r"}
    assert describe(KeyError("x")) == {"kind": "KeyError", "message": "'x'", "raw": None}
    assert describe(ValueError("\ud800"))["message"] == "?"


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ('{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}', 34.0),
        ('{"error": {"details": [{"retryDelay": "0.5s"}]}}', 0.5),
        ("Rate limit reached. Please try again in 1.5s.", 1.5),
        ("Please try again in 6m2s.", 362.0),
        ("Please try again in 20ms.", 0.02),
        ("Please retry in 34.07s.", 34.07),
        ("Too many requests, retry after 3 seconds", 3.0),
        ("slow down", None),
    ],
)
def test_a_wait_that_the_body_asks_for(body: str, seconds: float | None) -> None:
    failure = sorted_as(429, body)
    assert isinstance(failure, TransientModelError)
    assert failure.retry_after == pytest.approx(seconds)


def test_the_header_wins_over_the_body() -> None:
    failure = sorted_as(429, '{"error": {"details": [{"retryDelay": "34s"}]}}', {"Retry-After": "2"})
    assert isinstance(failure, TransientModelError)
    assert failure.retry_after == 2.0
