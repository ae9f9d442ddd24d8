"""HTTP to model servers: one shared aiohttp session per event loop, bounded answers, typed failures.

Apart from the chat models, as aiohttp is a third of a second of imports, which commands that make no call do without.
"""

import asyncio
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from schemas.errors import FatalModelError, RowError, TransientModelError

MAX_ANSWER_BYTES = 1_000_000
# One a loop, as aiohttp wants it; the worker closes its own.
_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Answer:
    """The answer to a request: all of its body with status 200, the beginning of an error's."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def session() -> aiohttp.ClientSession:
    """Return the event loop's shared session. Concurrency is bounded by the limiter, so the pool itself is not."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30)
        found = _sessions[loop] = aiohttp.ClientSession(connector=connector)
    return found


async def close_session() -> None:
    """Close the running loop's session; to be awaited before the loop ends."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None and not found.closed:
        await found.close()


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    model: str,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """Send one request of a model; its answer has at most `max_bytes`. Raises TransientModelError for no answer,
    FatalModelError for a URL that cannot be called, RowError for an answer that is too large."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    address = URL(url, encoded=True) if "%" in url else url  # a signature is of the path as it stands
    with typed_failures(url, model, timeout_s):
        async with session().post(
            address,
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            proxy=proxy_of(url),
        ) as response:
            read = _read_capped(response, max_bytes) if response.status == 200 else read_beginning(response)
            return Answer(response.status, await read, response.headers)


@contextmanager
def typed_failures(url: str, model: str, timeout_s: float) -> Iterator[None]:
    """Convert what HTTP raises within the block: to TransientModelError for no answer, FatalModelError for a URL that
    cannot be called."""
    try:
        yield
    except TimeoutError as exc:
        raise TransientModelError(f"{model}: no answer within {timeout_s:g} s") from exc
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.ClientConnectorCertificateError) as exc:
        raise FatalModelError(
            f"{model}: cannot call {_url_host(url)} ({type(exc).__name__})", hint=f"Check the base URL of {url}."
        ) from exc
    except (aiohttp.ClientError, ConnectionError) as exc:
        raise TransientModelError(f"{model}: {_url_host(url)}: {type(exc).__name__}") from exc


async def _read_capped(response: aiohttp.ClientResponse, most: int) -> bytes:
    chunks, size = [], response.content_length or 0
    if size <= most:
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            chunks.append(chunk)
            if size > most:
                break
    if size > most:
        response.close()
        raise RowError(f"the answer is larger than {most:,} bytes", kind="oversized_answer")
    return b"".join(chunks)


async def read_beginning(response: aiohttp.ClientResponse, limit: int = 65_536) -> bytes:
    """Read the beginning of an error's body; the rest is not used."""
    beginning = b""
    async for chunk in response.content.iter_any():
        beginning += chunk
        if len(beginning) > limit:
            response.close()
            break
    return beginning[:limit]


def _url_host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]


@lru_cache(maxsize=64)
def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; cached, as aiohttp's `trust_env` reads it for each
    request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
