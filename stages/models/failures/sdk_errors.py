"""Classify an SDK's own exceptions without an HTTP status: by their classes, if the SDK is loaded.

No SDK is imported for this: an exception of one that isn't in `sys.modules` cannot have been raised.
"""

import sys
from typing import Literal

Kind = Literal["transient", "row", "malformed", "fatal"]

# The first match counts. A family's base class comes last: its other exceptions are raised before any call, because a
# key, a region or a profile is missing.
_TABLE: tuple[tuple[str, tuple[str, ...], Kind], ...] = (
    ("openai", ("APIResponseValidationError",), "malformed"),
    ("openai", ("APIConnectionError",), "transient"),
    ("anthropic", ("APIResponseValidationError",), "malformed"),
    ("anthropic", ("APIConnectionError", "RetryableError"), "transient"),
    ("google.genai.errors", ("UnknownApiResponseError",), "malformed"),
    ("google.genai.errors", ("ContinuationInterruptedError",), "transient"),
    (
        "google.genai.errors",
        ("UnsupportedFunctionError", "FunctionInvocationError", "UnknownFunctionCallArgumentError"),
        "row",
    ),
    ("google.auth.exceptions", ("TransportError", "TimeoutError", "ResponseError"), "transient"),
    ("google.auth.exceptions", ("GoogleAuthError",), "fatal"),
    (
        "botocore.exceptions",
        ("HTTPClientError", "ConnectionError", "IncompleteReadError", "ChecksumError", "FlexibleChecksumError"),
        "transient",
    ),
    ("botocore.exceptions", ("ParamValidationError",), "row"),
    ("botocore.exceptions", ("BotoCoreError", "UndefinedModelAttributeError"), "fatal"),
)
# Their base classes do not tell: a message without a status may be a quota, a broken stream or a missing key.
_UNNUMBERED = (
    ("openai", ("APIError",)),
    ("anthropic", ("APIError",)),
    ("google.genai.errors", ("APIError",)),
    ("botocore.exceptions", ("ClientError",)),
)
_REFUSING = (("openai", ("OpenAIError",)), ("anthropic", ("AnthropicError",)))
_WRAPPERS = ("langchain_",)


def kind_of(exc: BaseException) -> Kind | None:
    """Return the kind of an SDK's exception, None for any other."""
    return next((kind for module, names, kind in _TABLE if _is_one(exc, module, names)), None)


def is_unnumbered(exc: BaseException) -> bool:
    """True for an SDK's error of a call that only its message can classify."""
    return any(_is_one(exc, module, names) for module, names in _UNNUMBERED)


def refuses_to_call(exc: BaseException) -> bool:
    """True for the rest of an SDK's exceptions: no call was made."""
    return any(_is_one(exc, module, names) for module, names in _REFUSING)


def is_wrapper(exc: BaseException) -> bool:
    """True for an integration's own exception, whose cause is an SDK's."""
    return type(exc).__module__.startswith(_WRAPPERS)


def _is_one(exc: BaseException, module: str, names: tuple[str, ...]) -> bool:
    loaded = sys.modules.get(module)
    classes = tuple(cls for name in names if isinstance(cls := getattr(loaded, name, None), type))
    return isinstance(exc, classes)
