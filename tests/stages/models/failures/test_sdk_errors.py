"""Every exception of the SDKs that integrations bring is sorted into one kind, by the real classes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import anthropic
import botocore.exceptions as boto
import google.auth.exceptions as google_auth
import pytest
from anthropic import _exceptions as anthropic_exceptions
from google.genai import errors as google
from langchain_google_genai.chat_models import ChatGoogleGenerativeAIError

from schemas.errors import FatalModelError, RowError, TandemError, TransientModelError
from stages.models.failures.errors import classify

KEY = "SOME_API_KEY"
httpx: Any = sys.modules.get("httpx2") or sys.modules["httpx"]  # whichever the SDK imported
_REQUEST = httpx.Request("POST", "http://x/v1")


def sorted_as(exc: BaseException) -> TandemError | None:
    return classify(exc, model="m", setting=KEY)


def exceptions(module: Any) -> Iterator[tuple[str, Any]]:
    for name, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, Exception) and not issubclass(cls, Warning):
            yield name, cls


# Anthropic ---------------------------------------------------------------------------------------------------------

_STATUSES = {
    "BadRequestError": 400, "AuthenticationError": 401, "PaymentRequiredError": 402, "PermissionDeniedError": 403,
    "NotFoundError": 404, "RequestTimeoutError": 408, "ConflictError": 409, "PreconditionFailedError": 412,
    "RequestTooLargeError": 413, "ContentTooLargeError": 413, "UnprocessableEntityError": 422, "RateLimitError": 429,
    "RequestHeaderFieldsTooLargeError": 431, "ClientClosedRequestError": 499, "InternalServerError": 500,
    "HTTPNotImplementedError": 501, "ServiceUnavailableError": 503, "GatewayTimeoutError": 504,
    "DeadlineExceededError": 504, "OverloadedError": 529, "APIStatusError": 500, "APIResponseValidationError": 200,
}  # fmt: skip


def anthropic_error(name: str, cls: Any) -> Exception:
    made: Exception
    if name in _STATUSES:
        response = httpx.Response(_STATUSES[name], request=_REQUEST)
        extra = {} if name == "APIResponseValidationError" else {"message": "why"}
        made = cls(response=response, body={"error": {"message": "why"}}, **extra)
    elif issubclass(cls, anthropic.APIConnectionError):
        made = cls(request=_REQUEST)
    elif issubclass(cls, anthropic.APIError):
        made = cls("why", _REQUEST, body=None)
    else:
        made = cls("no api_key")
    return made


def test_every_exception_of_anthropic_is_sorted() -> None:
    found = {name: sorted_as(anthropic_error(name, cls)) for name, cls in exceptions(anthropic_exceptions)}
    assert len(found) >= 20
    fatal = {"AuthenticationError", "PaymentRequiredError", "PermissionDeniedError", "NotFoundError", "AnthropicError",
             "CredentialsError", "IdentityTokenFileError"}  # fmt: skip
    row = {"BadRequestError", "PreconditionFailedError", "RequestTooLargeError", "ContentTooLargeError",
           "UnprocessableEntityError", "RequestHeaderFieldsTooLargeError", "ClientClosedRequestError"}  # fmt: skip
    for name, failure in found.items():
        expected = FatalModelError if name in fatal else RowError if name in row else TransientModelError
        assert isinstance(failure, expected), (name, failure)


# Google ------------------------------------------------------------------------------------------------------------


def google_error(code: int, message: str, status: str = "", reason: str = "") -> google.APIError:
    details = [{"reason": reason}] if reason else []
    cls = google.ServerError if code >= 500 else google.ClientError
    return cls(code, {"error": {"code": code, "message": message, "status": status, "details": details}})


def test_every_exception_of_google_genai_is_sorted() -> None:
    kinds: dict[str, type[TandemError]] = {
        "APIError": TransientModelError, "ServerError": TransientModelError, "ClientError": RowError,
        "ContinuationInterruptedError": TransientModelError, "UnknownApiResponseError": TransientModelError,
        "FunctionInvocationError": RowError, "UnknownFunctionCallArgumentError": RowError,
        "UnsupportedFunctionError": RowError,
    }  # fmt: skip
    codes = {"APIError": 503, "ServerError": 500, "ClientError": 400}
    for name, cls in exceptions(google):
        if name in codes:
            exc = cls(codes[name], {"error": {"message": "why"}})
        else:
            exc = cls.__new__(cls)
            Exception.__init__(exc, "why")
        assert isinstance(sorted_as(exc), kinds[name]), name


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (google_error(401, "no key"), FatalModelError),
        (google_error(403, "no access", "PERMISSION_DENIED"), FatalModelError),
        (google_error(404, "models/x is not found"), FatalModelError),
        (google_error(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", "API_KEY_INVALID"),
         FatalModelError),
        (google_error(400, "bad schema", "INVALID_ARGUMENT"), RowError),
        (google_error(429, "Resource exhausted, retry in 34s", "RESOURCE_EXHAUSTED"), TransientModelError),
        (google_error(503, "overloaded", "UNAVAILABLE"), TransientModelError),
    ],
)  # fmt: skip
def test_google_is_read_by_its_codes_also_within_langchains_exception(
    exc: Exception, expected: type[TandemError], wrapped: bool
) -> None:
    if wrapped:
        outer = ChatGoogleGenerativeAIError("Error calling model")
        outer.__cause__ = exc
        exc = outer
    failure = sorted_as(exc)
    assert isinstance(failure, expected)
    if expected is FatalModelError:
        assert "Check" in failure.hint


def test_every_exception_of_google_auth_is_sorted() -> None:
    passing = {"TransportError", "TimeoutError", "ResponseError"}
    found = list(exceptions(google_auth))
    assert len(found) >= 10
    for name, cls in found:
        if not issubclass(cls, google_auth.GoogleAuthError):
            continue
        exc = cls.__new__(cls)
        Exception.__init__(exc, "why")
        expected = TransientModelError if name in passing else FatalModelError
        assert isinstance(sorted_as(exc), expected), name


# AWS ---------------------------------------------------------------------------------------------------------------

_TRANSIENT = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.ChecksumError,
              boto.FlexibleChecksumError)  # fmt: skip


def client_error(code: str, status: int | None = None, cls: Any = boto.ClientError, message: str = "why") -> Exception:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}} if status else {}
    made: Exception = cls({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, "Converse")
    return made


def test_every_exception_of_botocore_is_sorted() -> None:
    found = list(exceptions(boto))
    assert len(found) >= 90
    for name, cls in found:
        if issubclass(cls, boto.ClientError):
            exc = client_error("InternalServerException", 500, cls)
            expected: type[TandemError] = TransientModelError
        else:
            exc = cls.__new__(cls)
            Exception.__init__(exc, "why")
            expected = FatalModelError
            if issubclass(cls, _TRANSIENT):
                expected = TransientModelError
            elif issubclass(cls, boto.ParamValidationError):
                expected = RowError
        assert isinstance(sorted_as(exc), expected), name


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (client_error("UnrecognizedClientException", 403), FatalModelError),
        (client_error("UnrecognizedClientException", 400), FatalModelError),
        (client_error("ExpiredTokenException", 400), FatalModelError),
        (client_error("AccessDeniedException", 403), FatalModelError),
        (client_error("ResourceNotFoundException", 404), FatalModelError),
        (client_error("ValidationException", 400, message="The provided model identifier is invalid."),
         FatalModelError),
        (client_error("ValidationException", 400), RowError),
        (client_error("ThrottlingException", 429), TransientModelError),
        (client_error("ModelErrorException", 424), RowError),
        (client_error("internalServerException", 400, boto.EventStreamError), TransientModelError),
        (client_error("modelStreamErrorException", 400, boto.EventStreamError), TransientModelError),
        (client_error("validationException", 400, boto.EventStreamError), RowError),
        (client_error("Unheard", None), TransientModelError),
    ],
)  # fmt: skip
def test_bedrock_is_read_by_its_codes(exc: Exception, expected: type[TandemError]) -> None:
    assert isinstance(sorted_as(exc), expected)
