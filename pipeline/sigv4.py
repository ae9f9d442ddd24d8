"""AWS's Signature Version 4 of a POST, of which each call to Bedrock has one; for an eighth of the CPU of botocore's.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = frozenset(
    ("connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id")
)  # hops change them
_DEFAULT_PORTS = {"http": 80, "https": 443}


def signed_headers(
    url: str, headers: Mapping[str, str], body: bytes, *, keys: Any, scope: tuple[str, str]
) -> dict[str, str]:
    """Return the headers that sign a POST now. `keys`: botocore's frozen credentials; `scope`: region and service."""
    region, service = scope
    moment = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
    added = {"X-Amz-Date": moment, **({"X-Amz-Security-Token": keys.token} if keys.token else {})}
    host, path = _place_of(url)
    signed = {name.lower(): " ".join(value.split()) for name, value in {**headers, **added}.items()} | {"host": host}
    names = sorted(name for name in signed if name not in _UNSIGNED)
    listed = ";".join(names)
    lines = "".join(f"{name}:{signed[name]}\n" for name in names)
    request = f"POST\n{path}\n\n{lines}\n{listed}\n{hashlib.sha256(body).hexdigest()}"
    where = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = f"{_ALGORITHM}\n{moment}\n{where}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = _key(keys.secret_key, moment[:8], region, service)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    proof = f"{_ALGORITHM} Credential={keys.access_key}/{where}, SignedHeaders={listed}, Signature={signature}"
    return {**added, "Authorization": proof}


@lru_cache(maxsize=256)
def _place_of(url: str) -> tuple[str, str]:
    """Return the host, and the path as it is signed: encoded once more."""
    parts = urlsplit(url)
    port = parts.port
    host = parts.hostname or ""
    shown = host if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f"{host}:{port}"
    return shown, quote(parts.path or "/", safe="/~")


@lru_cache(maxsize=16)
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
