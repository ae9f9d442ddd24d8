"""Vectors as answers of a chat model: a text in, a vector out, as base64 of little-endian 32-bit floats.

So a vector is journalled, limited, retried and paid for by the same code as an answer.
"""

import base64
import struct
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import RowError


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def unpacked(text: str) -> list[float]:
    """Decode a packed vector. Raises ValueError if the text is none."""
    try:
        data = base64.b64decode(text, validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except struct.error as exc:
        raise ValueError(str(exc)) from None


def text_of(messages: list[BaseMessage]) -> str:
    """Return the text to embed. Raises RowError if it is not text."""
    content = messages[-1].content
    if not isinstance(content, str):
        raise RowError("only text can be embedded", kind="not_text")
    return content


def result_of(content: str, read: int | None, metadata: dict[str, Any] | None = None) -> ChatResult:
    """Return a packed vector as a chat model's answer, with its tokens, if they are known."""
    usage = None if read is None else UsageMetadata(input_tokens=read, output_tokens=0, total_tokens=read)
    message = AIMessage(content=content, usage_metadata=usage, response_metadata=metadata or {})
    return ChatResult(generations=[ChatGeneration(message=message)])
