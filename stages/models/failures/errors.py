"""Classify a failed model call: transient (wait), row (reject the row), fatal (stop the run).

Foreign exceptions are classified here and nowhere else. Our own transport calls `from_status`; SDKs' exceptions are
read by the attributes that they share (`status_code`, `response`, `body`), whatever their class.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from json import JSONDecodeError
from typing import Any

import orjson

from schemas.errors import FatalModelError, ModelError, NoAnswer, RowError, TandemError, TransientModelError
from stages.models.credentials import variable
from stages.models.failures.retry_after import wait_of
from stages.models.failures.sdk_errors import Kind, is_unnumbered, is_wrapper, kind_of, refuses_to_call
from stages.text.exceptions import text_of

TRANSIENT_STATUS = frozenset((408, 409, 425, 429))  # and every 5xx
_CONGESTION = {429: "rate", 503: "overload", 529: "overload"}
# Matched in the error's code and message. Rate limits mention billing pages and payment methods too, so those words
# alone do not mean an empty account; a quota with a retry time is a rate limit.
_QUOTA = re.compile(
    r"insufficient_quota|insufficient (balance|funds|credit)|credit balance is too low|billing_(hard_limit|not_active)"
    r"|quota_exceeded|exceeded your current quota|payment required",
    re.I,
)
_RATE = re.compile(r"rate_limit_exceeded|per ?minute|retryDelay|retry in \d", re.I)
_CONTEXT = re.compile(
    r"context_length|maximum context|context window|too many tokens|prompt is too long|string_above_max_length", re.I
)
_CONTENT = re.compile(r"content_?filter|content_policy|content management policy|moderation|flagged|safety", re.I)
_MODEL = re.compile(
    r"model_not_found|(unknown|invalid|no such) model|\bmodel\b[^.]{0,80}(does not exist|not found|is not available)"
    r"|model identifier is invalid|on-demand throughput isn.t supported",
    re.I,
)
_KEY = re.compile(r"API[ _]key (not valid|expired|not found)|API_KEY_INVALID|invalid x-api-key", re.I)  # Google: a 400
# AWS, whatever the status.
_AWS_REFUSED = re.compile(
    r"UnrecognizedClient|ExpiredToken|InvalidSignature|SignatureDoesNot|InvalidClientTokenId|OptIn"
)
_ELSEWHERE = re.compile(
    r"unexpected endpoint|no such (route|endpoint|path)|unknown (route|endpoint|path|request url)|invalid url \("
    r"|cannot (post|get) /|(route|endpoint|path) \S* ?not found",
    re.I,
)
_NO_ROOM = re.compile(r"resource.?unavailable", re.I)
_CONCURRENCY = re.compile(r"concurren|simultaneous|parallel requests", re.I)
_THROTTLED = re.compile(
    r"Throttl|TooManyRequests|ServiceUnavailable|ModelNotReady|SlowDown|ModelTimeout|ModelStreamError|InternalServer"
    r"|InternalFailure",
    re.I,
)
_LONGEST_BODY = 100_000
_CONNECTION = re.compile(
    r"connection|connect(or)?error|timeout|disconnected|unavailable|transporterror|protocolerror|networkerror"
    r"|payloaderror|incompleteread",
    re.I,
)
_UNSENT = re.compile(
    r"Connector|ConnectError|ConnectTimeout|ConnectionTimeout|PoolTimeout|EndpointConnection|ProxyConn"
)
_LOST = re.compile(r"Timeout|Disconnected|Reset|Payload|ClientOSError|ReadError|RemoteProtocol|ConnectionClosed")
_SECRETS = re.compile(
    r"(?:sk|pk|rk|gsk|xai|key|hf|r8)[-_][\w*-]{6,}|AIza[\w-]{10,}|AKIA\w{12,}|(?<=key=)[^&\s\"']+|(?<=Bearer )\S+", re.I
)


def from_status(
    status: int, text: str, *, headers: Mapping[str, str], model: str, setting: str, base_url: str = ""
) -> ModelError | FatalModelError:
    """Convert an HTTP error answer to one of our errors. `setting` names the variable that holds the credential."""
    cause = _provider_message(text, setting)
    where = f"Check the base URL{f', {_without_user(base_url)}' if base_url else ''}."
    if _ELSEWHERE.search(cause) and status != 429:
        return FatalModelError(f"{model}: no such API there ({status}: {cause})", hint=where)
    if status in (401, 407) or (status == 400 and _KEY.search(text)):
        return FatalModelError(f"{model}: the provider refuses the key ({status}: {cause})", hint=f"Check {setting}.")
    no_money = bool(_QUOTA.search(text)) and not _RATE.search(text)
    if status == 402 or (status in (400, 403, 429) and no_money):
        used_up = FatalModelError(
            f"{model}: the quota or balance is used up ({status}: {cause})",
            hint=f"Check the account behind {setting}.",
        )
        used_up.quota = True
        return used_up
    if status == 403 and not _CONTENT.search(text):
        return FatalModelError(f"{model}: no access ({status}: {cause})", hint=f"Check the account behind {setting}.")
    if status == 404 or (status == 400 and _MODEL.search(cause)):
        return FatalModelError(
            f"{model}: not found at the provider ({status}: {cause})", hint=f"Check model: in the spec. {where}"
        )
    if 300 <= status < 400 or status == 405:
        return FatalModelError(f"{model}: no such API there (HTTP {status})", hint=where)
    if status in TRANSIENT_STATUS or status >= 500:
        congestion = _CONGESTION.get(status, "")
        if congestion == "rate" and _CONCURRENCY.search(text):
            congestion = "overload"
        no_room = status == 429 and _NO_ROOM.search(text) is not None
        error = TransientModelError(
            f"{model}: HTTP {status}: {cause}",
            retry_after=wait_of(headers, text),
            congestion="" if no_room else congestion,
        )
        error.no_room = no_room
        return error
    kind = "bad_request"
    if _CONTEXT.search(text) or status == 413:
        kind = "context_length"
    elif _CONTENT.search(text):
        kind = "content_filter"
    return RowError(f"HTTP {status}: {cause}", kind=kind, status=status, parameter=_parameter(text))


def _parameter(text: str) -> str:
    """Return the parameter that a refusal names: OpenAI's `param`, or the last part of FastAPI's place in the body."""
    if named := re.search(r'"param"\s*:\s*"([^"]{1,100})"', text):
        return named[1]
    place = re.search(r'"loc"\s*:\s*\[\s*"body"\s*,\s*"([^"]{1,100})"', text)
    return place[1] if place else ""


def _without_user(url: str) -> str:
    return redacted(re.sub(r"//[^/@]*@", "//", url))


def classify(exc: BaseException, *, model: str, setting: str) -> TandemError | None:
    """Convert any exception of a model call to one of our errors; None if it is no failure of a call (a bug in a
    graph)."""
    if isinstance(exc, TandemError):
        return exc
    name = type(exc).__name__
    if "LengthFinishReason" in name:
        return RowError("the answer was cut off at max_tokens", kind="truncated", hint="Raise params.max_tokens.")
    if "ContentFilterFinishReason" in name:
        return RowError("the provider's content filter withheld the answer", kind="content_filter")
    status, text = _status(exc), _body(exc)
    if _AWS_REFUSED.search(_aws_code(exc)):
        return from_status(401, text, headers={}, model=model, setting=setting)
    throttled = _THROTTLED.search(name) or _THROTTLED.search(_aws_code(exc))
    if throttled or isinstance(exc, TimeoutError | ConnectionError):
        message = _provider_message(text, setting)
        return TransientModelError(
            f"{model}: {name}" + (f": {message}" if message else ""),
            retry_after=wait_of(_headers(exc), text),
            congestion=_congestion_of(throttled[0]) if throttled else "",
        )
    if (status is not None and 200 <= status < 300) or isinstance(exc, JSONDecodeError):
        return NoAnswer("the provider's answer is not a completion", kind="malformed_response")
    if status is not None:
        return from_status(status, text, headers=_headers(exc), model=model, setting=setting)
    known = kind_of(exc)
    if known is not None:
        return _of_kind(known, name, _provider_message(text, setting), model, setting)
    if any(_CONNECTION.search(cls.__name__) for cls in type(exc).__mro__):
        return TransientModelError(f"{model}: {name}: {_provider_message(text, setting)}")
    found = _unnumbered(exc, name, text, model, setting)
    if found is None and is_wrapper(exc) and exc.__cause__ is not None:
        return classify(exc.__cause__, model=model, setting=setting)
    return found


def not_renewed(exc: Exception, *, what: str, hint: str) -> TransientModelError | FatalModelError:
    """Return the error of credentials that cannot be renewed: a wait if nobody was reached who renews them, else a stop
    with a hint. To be raised `from None`: a timeout on the way to a cloud's tokens is none of a call that is billed."""
    found = classify(exc, model=what, setting="")
    passes = isinstance(found, TransientModelError) or getattr(exc, "retryable", False)
    if passes or any(kind_of(cause) == "transient" for cause in _chain(exc)):
        return TransientModelError(f"{what} cannot be renewed now ({type(exc).__name__}).")
    return FatalModelError(f"{what} cannot be renewed ({type(exc).__name__}).", hint=hint)


def _of_kind(kind: Kind, name: str, message: str, model: str, setting: str) -> TandemError:
    if kind == "transient":
        return TransientModelError(f"{model}: {name}: {message}")
    if kind == "fatal":
        return FatalModelError(f"{model}: {message or name}", hint=f"Check {setting}.")
    if kind == "malformed":
        return NoAnswer("the provider's answer is not a completion", kind="malformed_response")
    return RowError(f"{name}: {message}", kind="bad_request")


def _congestion_of(word: str) -> str:
    """Return the congestion that a throttling exception's name means, if there is no status."""
    if word.lower() in ("throttl", "toomanyrequests"):
        return "rate"
    return "overload" if word.lower() in ("serviceunavailable", "slowdown") else ""


def _unnumbered(exc: BaseException, name: str, text: str, model: str, setting: str) -> TandemError | None:
    """Classify an SDK's own error without a status, by its code or its base classes."""
    message = f"{getattr(exc, 'code', '') or ''} {text}"
    if is_unnumbered(exc) or any(cls.__name__ in ("APIError", "APIException") for cls in type(exc).__mro__):
        if _QUOTA.search(message) and not _RATE.search(message):
            return from_status(429, message, headers={}, model=model, setting=setting)
        return TransientModelError(f"{model}: {name}: {_provider_message(text, setting)}")
    if refuses_to_call(exc) or re.search(r"credential|authentication", name, re.I):  # it made no call
        return FatalModelError(f"{model}: {_provider_message(text, setting) or name}", hint=f"Check {setting}.")
    return None


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status of an SDK's exception, from any attribute that SDKs use."""
    response = getattr(exc, "response", None)
    places: list[Any] = [getattr(exc, "status_code", None), getattr(response, "status_code", None)]
    if isinstance(response, Mapping):  # botocore
        places.append((response.get("ResponseMetadata") or {}).get("HTTPStatusCode"))
    places += [getattr(exc, "status", None), getattr(exc, "code", None)]
    return next((int(p) for p in places if isinstance(p, int) and 100 <= p < 600), None)


def _aws_code(exc: BaseException) -> str:
    response = getattr(exc, "response", None)
    return str((response.get("Error") or {}).get("Code", "")) if isinstance(response, Mapping) else ""


def _headers(exc: BaseException) -> Mapping[str, str]:
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        found = (response.get("ResponseMetadata") or {}).get("HTTPHeaders")
    else:
        found = getattr(response, "headers", None) or getattr(exc, "headers", None)
    return found if isinstance(found, Mapping) else {}


def _body(exc: BaseException) -> str:
    """Return the JSON of the provider's error if the SDK kept it, else the exception's text."""
    for body in (getattr(exc, "body", None), getattr(exc, "details", None)):
        if isinstance(body, Mapping):
            with contextlib.suppress(TypeError):
                return orjson.dumps(body).decode()
    return text_of(exc, _LONGEST_BODY)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__


def may_be_billed(exc: BaseException) -> bool:
    """True if the provider may have billed a call whose answer was lost: sent, then a timeout or a broken
    connection."""
    if isinstance(exc, ModelError | FatalModelError) and exc.billed:
        return True
    if _status(exc) is not None:
        return False
    names = [type(cause).__name__ for cause in _chain(exc)]
    return any(map(_LOST.search, names)) and not any(map(_UNSENT.search, names))


def _provider_message(text: str, setting: str, limit: int = 200) -> str:
    """Return the provider's message, short and without keys: `error.message` of a JSON body if there is one."""
    match = re.search(r'"message"\s*:\s*("(?:[^"\\]|\\.)*")', text)
    if match is not None:
        try:
            text = orjson.loads(match[1])
        except orjson.JSONDecodeError:
            text = match[1]
    message = redacted(" ".join(text.split()), setting)
    return message[:limit] + ("…" if len(message) > limit else "")


def redacted(text: str, setting: str = "") -> str:
    """Remove credentials from the text: providers echo refused keys, and some put them into URLs."""
    secret = variable(setting)[1] if setting else ""
    if len(secret) >= 8:
        text = text.replace(secret, "…")
    return _SECRETS.sub("…", text)


def describe(exc: BaseException) -> dict[str, Any]:
    """Return the `error` of a reject: kind, message, raw answer."""
    if isinstance(exc, RowError):
        fields = {"kind": exc.kind, "message": exc.message, "raw": exc.raw}
    else:
        fields = {"kind": type(exc).__name__, "message": redacted(text_of(exc)), "raw": None}
    # Text from anywhere; text that is no Unicode could never be written to the journal.
    out: dict[str, Any] = {
        key: value if value is None else value.encode("utf-8", "replace").decode() for key, value in fields.items()
    }
    if isinstance(exc, RowError) and exc.status is not None:
        out["status"] = exc.status
    return out


class Waiting(TandemError):
    """The provider requests, or an outage needs, a longer wait than a worker should hold a slot for."""

    retryable = True

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds
