"""Parse the body of a success as one completion, however a server wrote it: with a byte order mark, invalid UTF-8, a
stream's end behind it, or as a stream of events that was not requested. No I/O.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from schemas.errors import NoAnswer
from stages.text.surrogates import encodable, without_surrogates

_EVENT = re.compile(r"(data|event|id|retry)?:")
_END = "[DONE]"
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml)", re.I)


def completion_in(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises NoAnswer for a page, a body that was cut short, and anything else."""
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        answer = _leniently(raw)
    if isinstance(answer, dict):
        return answer
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
        return answer[0]
    raise no_completion(raw)


def no_completion(raw: bytes) -> NoAnswer:
    text = raw[:2000].decode("utf-8", "replace")
    page = _PAGE.match(text) is not None
    description = (
        "a web page, not a completion: a proxy's, or the base URL is wrong" if page else "not the JSON of a completion"
    )
    return NoAnswer(f"the provider's answer is {description}", kind="malformed_response", raw=text, billed=not page)


def _leniently(raw: bytes) -> Any:
    text = raw.decode("utf-8-sig", "replace").strip()
    if _EVENT.match(text):
        return _merged(raw, list(_events(text)))
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        raise no_completion(raw) from None
    rest = text[end:].strip()
    if rest and not (_EVENT.match(rest) or rest == _END):
        raise no_completion(raw)
    return encodable(value)


# A stream of events ---------------------------------------------------------------------------------------------------


def _events(text: str) -> Iterator[str]:
    """Yield the data of each event."""
    for event in re.split(r"\r?\n\r?\n|\r\r", text):
        lines = [line[5:].removeprefix(" ") for line in event.splitlines() if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)


def _merged(raw: bytes, events: list[str]) -> dict[str, Any]:
    """Merge chunks to one completion. Raises NoAnswer if the stream was cut off."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    finish: Any = None
    ended = False
    for event in events:
        if event.strip() == _END:
            ended = True
            continue
        chunk = _chunk(event, raw)
        if chunk.get("error"):
            return chunk
        whole.update({name: value for name, value in chunk.items() if name != "choices" and value is not None})
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict) and not choice.get("index"):
                _add(message, choice.get("delta") or choice.get("message") or {})
                finish = choice.get("finish_reason") or finish
    if finish is None and not ended:
        raise no_completion(raw)
    message["content"] = without_surrogates(message["content"])
    message["tool_calls"] = [call for _, call in sorted(message.get("tool_calls", {}).items())]
    return {**whole, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def _chunk(event: str, raw: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(event, strict=False)
    except ValueError:
        raise no_completion(raw) from None
    if not isinstance(chunk, dict):
        raise no_completion(raw)
    return chunk


def _add(message: dict[str, Any], delta: Any) -> None:
    if not isinstance(delta, dict):
        return
    for name in ("content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls") or ():
        if not isinstance(call, dict):
            continue
        calls = message.setdefault("tool_calls", {})
        known = calls.setdefault(call.get("index", len(calls)), {"id": None, "function": {"name": "", "arguments": ""}})
        function = call.get("function") or {}
        known["id"] = call.get("id") or known["id"]
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""
