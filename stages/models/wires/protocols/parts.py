"""Parts of a message's content: text, images, files and sound, in whichever form a graph wrote them. No I/O.

Graphs write the form of the provider that they were made for, or one of LangChain's. Each is read as a `Part`, from
which every wire writes its own form; a part that is none of these is passed on as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "image", "file", "audio"]
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,", re.I)
_MARK = "cache_control"
# What a model has thought, and its calls of tools: parts of an answer, which only its own provider reads.
_OWN = frozenset((
    "thinking", "redacted_thinking", "tool_use", "reasoning", "function_call", "server_tool_use",
    "web_search_tool_result", "web_search_call",
))  # fmt: skip
_CHAT = frozenset(("text", "image_url", "input_audio", "refusal"))
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a content. `data`: base64; else `url`. `mark`: the mark for the provider's cache after this part."""

    kind: Kind
    text: str = ""
    mime: str = ""
    data: str = ""
    url: str = ""
    name: str = ""
    mark: Mapping[str, Any] | None = None


def parts_of(content: Any) -> list[Part | dict[str, Any]]:
    """Return the parts of a message's content; a dict is a part that is passed on as it is."""
    if not content:
        return []
    if isinstance(content, str):
        return [Part("text", text=content)]
    return [_part(part) for part in content]


def text_of(content: Any) -> str:
    """Return the text of a content, without its other parts."""
    return "".join(part.text for part in parts_of(content) if isinstance(part, Part))


def _part(part: Any) -> Part | dict[str, Any]:
    if isinstance(part, str):
        return Part("text", text=part)
    kind, mark = part.get("type"), part.get(_MARK)
    match kind:
        case "text":
            return Part("text", text=str(part.get("text", "")), mark=mark)
        case "image_url":
            given = part.get("image_url")
            url = given.get("url", "") if isinstance(given, Mapping) else str(given or part.get("url", ""))
            return _media("image", url=url, mark=mark)
        case "input_audio":
            sound = part.get("input_audio") or {}
            mime = _AUDIO.get(str(sound.get("format")), f"audio/{sound.get('format')}")
            return Part("audio", mime=mime, data=sound.get("data", ""), mark=mark)
        case "image" | "file" | "document" | "audio":
            return _standard(part, "file" if kind == "document" else kind, mark)
        case "media":
            return _media(_kind_of(part.get("mime_type", "")), part.get("mime_type", ""), part.get("data", ""),
                          part.get("file_uri", ""), mark=mark)  # fmt: skip
    return dict(part)


def _standard(part: Mapping[str, Any], kind: Kind, mark: Any) -> Part | dict[str, Any]:
    """Read LangChain's standard parts, Anthropic's `source`, and OpenAI's `file`."""
    source, file = part.get("source"), part.get("file")
    name = str(part.get("filename") or part.get("name") or part.get("title") or "")
    if isinstance(source, Mapping):
        if source.get("type") == "text":
            return Part("text", text=str(source.get("data", "")), mark=mark)
        if source.get("type") not in ("base64", "url"):
            return dict(part)
        return _media(kind, source.get("media_type", ""), source.get("data", ""), source.get("url", ""), name, mark)
    if isinstance(file, Mapping):
        if "file_data" not in file:
            return dict(part)
        return _media(kind, url=file["file_data"], name=str(file.get("filename", "")), mark=mark)
    data = part.get("base64") or (part.get("data") if part.get("source_type") != "url" else "") or ""
    if not (data or part.get("url")):
        return dict(part)
    return _media(kind, part.get("mime_type", ""), data, part.get("url", ""), name, mark)


def _media(kind: Kind, mime: str = "", data: str = "", url: str = "", name: str = "", mark: Any = None) -> Part:
    if (found := _DATA_URL.match(url)) is not None:
        mime, data, url = found[1] or mime, url[found.end() :], ""
    return Part(kind, mime=mime or _guessed(kind, url), data=data, url=url, name=name, mark=mark)


def _kind_of(mime: str) -> Kind:
    return "image" if mime.startswith("image/") else "audio" if mime.startswith("audio/") else "file"


def _guessed(kind: Kind, url: str) -> str:
    """Return the usual type of a medium whose type nobody wrote down."""
    if kind == "file":
        return "application/pdf"
    if kind == "audio":
        return "audio/wav"
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    return {"jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}.get(
        ending, "image/png"
    )


# The form of Chat Completions ----------------------------------------------------------------------------------------


def in_chat_form(content: list[Any]) -> list[Any]:
    """Return a content in the form of Chat Completions; the same one if it is in that form already."""
    if all(isinstance(part, dict) and (part.get("type") in _CHAT or "file" in part) for part in content):
        return content
    return [_chat_part(part) for part in content if not (isinstance(part, dict) and part.get("type") in _OWN)]


def _chat_part(part: Any) -> Any:
    read = _part(part)
    if not isinstance(read, Part):
        return read
    if read.kind == "text":
        return {"type": "text", "text": read.text}
    if read.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": read.data, "format": _sound_format(read.mime)}}
    url = read.url or data_url(read)
    if read.kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": read.name or "file.pdf", "file_data": url}}


def _sound_format(mime: str) -> str:
    return "mp3" if mime in ("audio/mp3", "audio/mpeg") else mime.partition("/")[2].removeprefix("x-")


def data_url(part: Part) -> str:
    return f"data:{part.mime};base64,{part.data}"
