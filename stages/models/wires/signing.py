"""Providers whose requests are signed; the signer is handed in, as `stages` knows no cloud."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

# Returns the headers that prove who asks: of the URL, the headers and the body of a request.
Sign = Callable[[str, Mapping[str, str], bytes], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True)
class SignedAccess:
    """A provider whose requests are signed: its address, the signer, and whether it finds its credentials."""

    base_url: str
    sign: Sign
    has_credentials: Callable[[], bool]
