"""The form of messages in Temporal: JSON by Pydantic.

The SDK makes a converter for each task of a workflow, which learns each message type anew; ours is one for all.
"""

from functools import cache
from typing import Any

from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import DataConverter


@cache
def _shared() -> PydanticPayloadConverter:
    return PydanticPayloadConverter()


class SharedPayloadConverter(PydanticPayloadConverter):
    """Pydantic's converter, of which a process has one: it holds nothing but the types that it has seen."""

    def __new__(cls, *_: Any) -> PydanticPayloadConverter:  # type: ignore[misc]  # so that `__init__` is not called
        return _shared()


JSON_MESSAGES = DataConverter(payload_converter_class=SharedPayloadConverter)
