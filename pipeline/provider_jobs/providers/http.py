"""HTTP to a provider's jobs: JSON both ways, files of any size up and down in bounded memory, typed failures.

The session is that of live calls (`stages.models.wires.http`), with its proxies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import orjson

from schemas.errors import TransientModelError
from stages.models.wires import http
from stages.models.wires.body import no_completion
from stages.models.wires.jobs.form import JobAnswer
from stages.models.wires.transport import ProviderChatModel

JSON_S = 60.0  # for an exchange of JSON
_FILE_S = 3600.0  # for a file, up or down
_BLOCK = 2**20
_READY_S, _FIRST_LOOK_S, _LATER_LOOK_S = 600.0, 0.25, 10.0


@dataclass(frozen=True)
class Reply:
    """The JSON of a success, and its headers."""

    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Connection:
    """A provider's address and account, as the live model has them. Every method raises what live calls raise:
    TransientModelError, RowError, FatalModelError."""

    model: ProviderChatModel

    async def json(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send JSON, or nothing, and return JSON; an empty body is an empty object."""
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return (await self.send(method, self._url(path), data, headers, query=query)).body

    async def send(
        self,
        method: str,
        url: str,
        data: Any,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float = JSON_S,
    ) -> Reply:
        """Send a body of any kind to a URL."""
        with http.typed_failures(url, self.model.model, timeout_s):
            async with http.session().request(
                method,
                url,
                data=data,
                params=query,
                headers={**self._headers(), **headers},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                proxy=http.proxy_of(url),
            ) as response:
                if response.status >= 300:
                    raise self.model.failure_of(response.status, await http.read_beginning(response), response.headers)
                return Reply(_object(await response.read()), response.headers)

    async def delete(self, path: str, gone: Collection[int] = (404,)) -> None:
        """Delete a file. An answer with a status of `gone` means that it is not there any more."""
        url = self._url(path)
        with http.typed_failures(url, self.model.model, JSON_S):
            async with http.session().delete(
                url, headers=self._headers(), timeout=aiohttp.ClientTimeout(total=JSON_S), proxy=http.proxy_of(url)
            ) as response:
                if response.status >= 300 and response.status not in gone:
                    raise self.model.failure_of(response.status, await http.read_beginning(response), response.headers)

    async def send_file(
        self, path: str, file: Path, headers: Mapping[str, str], *, timeout_s: float = _FILE_S
    ) -> Reply:
        """Send a file as the body of a POST; `path` may be a whole URL."""
        stream = await asyncio.to_thread(file.open, "rb")
        try:
            size = str(await asyncio.to_thread(lambda: file.stat().st_size))
            sent = {"Content-Type": "application/json", "Content-Length": size, **headers}
            return await self.send("POST", self._url(path), _blocks(stream), sent, timeout_s=timeout_s)
        finally:
            await asyncio.to_thread(stream.close)

    async def send_form(self, path: str, fields: Mapping[str, str], file: Path, name: str) -> dict[str, Any]:
        """Send fields and a file, under `name`, as a form."""
        stream = await asyncio.to_thread(file.open, "rb")
        try:
            form = aiohttp.FormData(dict(fields))
            form.add_field("file", stream, filename=name, content_type="application/jsonl")
            return (await self.send("POST", self._url(path), form, {}, timeout_s=_FILE_S)).body
        finally:
            await asyncio.to_thread(stream.close)

    async def download(self, path: str, target: Path, query: Mapping[str, str] | None = None) -> None:
        """Save the body of an answer in a local file."""
        url = self._url(path)
        with http.typed_failures(url, self.model.model, _FILE_S):
            async with http.session().get(
                url,
                params=query,
                headers=self._headers(),
                timeout=aiohttp.ClientTimeout(total=_FILE_S),
                proxy=http.proxy_of(url),
            ) as response:
                if response.status != 200:
                    raise self.model.failure_of(response.status, await http.read_beginning(response), response.headers)
                out = await asyncio.to_thread(target.open, "wb")
                try:
                    async for block in response.content.iter_chunked(_BLOCK):
                        await asyncio.to_thread(out.write, block)
                finally:
                    await asyncio.to_thread(out.close)

    async def first_line(self, path: str) -> dict[str, Any]:
        """Return the JSON object in the first line of an answer, without reading the rest; an empty one if there is
        none."""
        url = self._url(path)
        with http.typed_failures(url, self.model.model, JSON_S):
            async with http.session().get(
                url, headers=self._headers(), timeout=aiohttp.ClientTimeout(total=JSON_S), proxy=http.proxy_of(url)
            ) as response:
                if response.status != 200:
                    raise self.model.failure_of(response.status, await http.read_beginning(response), response.headers)
                beginning = b""
                async for block in response.content.iter_chunked(_BLOCK):
                    beginning += block
                    if b"\n" in block:
                        break
                response.close()
                return _object(beginning.split(b"\n", 1)[0])

    def at_base(self, url: str) -> str:
        """Return a URL that the provider names, at the host of the base URL: a proxy may stand before it."""
        base = urlsplit(self.model.base_url)
        return urlsplit(url)._replace(scheme=base.scheme, netloc=base.netloc).geturl()

    def _url(self, path: str) -> str:
        return path if "://" in path else urljoin(f"{self.model.base_url.rstrip('/')}/", path)

    def _headers(self) -> dict[str, str]:
        key = self.model.api_key.get_secret_value() if self.model.api_key is not None else ""
        return {**self.model.wire.headers(key), **self.model.headers}


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError:
        raise no_completion(body) from None
    if not isinstance(found, dict):
        raise no_completion(body)
    return found


async def _blocks(stream: IO[bytes]) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(stream.read, _BLOCK):
        yield block


async def until_ready(look: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a provider has taken in what it was sent. Raises TransientModelError after some minutes."""
    waited, pause = 0.0, _FIRST_LOOK_S
    while not await look():
        if waited > _READY_S:
            raise TransientModelError(f"{what} is still being processed by the provider")
        await asyncio.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LATER_LOOK_S)


async def answers_in(path: Path, answer_of: Callable[[dict[str, Any]], JobAnswer]) -> AsyncIterator[JobAnswer]:
    """Yield the results in a local file's lines. A line that is none is left out: its request counts as missing."""
    async for found in _lines_of(path):
        try:
            answer = answer_of(found)
        except (AttributeError, KeyError, TypeError, ValueError):  # it is not of the provider's form
            continue
        yield answer


async def _lines_of(path: Path) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a local file's lines."""
    stream = await asyncio.to_thread(path.open, "rb")
    try:
        while block := await asyncio.to_thread(stream.readlines, _BLOCK):
            for line in block:
                try:
                    found = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(found, dict):
                    yield found
    finally:
        await asyncio.to_thread(stream.close)
