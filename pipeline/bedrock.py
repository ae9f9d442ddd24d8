"""AWS's part of calls to Bedrock: where they go, and the signature that says who asks.

`stages` knows no AWS: it is handed `bedrock_access` (`stages.models.settings.choice.ModelServices`).
"""

import asyncio
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.credentials
import botocore.exceptions
import botocore.session

from pipeline.sigv4 import signed_headers
from pipeline.stores.s3_environment import region
from pipeline.stores.s3_errors import keys_out_of_reach
from schemas.errors import ConnectionFailed, FatalModelError, SpecError, TransientModelError
from stages.models.failures.errors import not_renewed
from stages.models.wires.signing import Sign, SignedAccess

_SERVICE = "bedrock"  # the signing name of `bedrock-runtime`
_WHAT, _AGAIN = "the AWS credentials", "Sign in again."
# For a client of which only the address is wanted: without, it looks for keys, which may take a request.
_NO_KEYS = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "-")
_BEARER = "AWS_BEARER_TOKEN_BEDROCK"  # an API key of Bedrock's, which goes before other credentials, as in boto3


def bedrock_access(params: Mapping[str, Any]) -> SignedAccess:
    """Return the address and the signer of a model with these parameters, as boto3 finds both. Raises SpecError."""
    profile = params.get("credentials_profile_name")
    try:
        session = botocore.session.Session(profile=profile)
        place = params.get("region_name") or region()
        client = session.create_client("bedrock-runtime", region_name=place, **_NO_KEYS)
        place, address = client.meta.region_name, client.meta.endpoint_url
        client.close()
    except (botocore.exceptions.NoRegionError, botocore.exceptions.InvalidRegionError):
        raise SpecError(
            "Bedrock needs a region, and none is set.", hint="export AWS_REGION=…, or set params: {region_name: …}."
        ) from None
    except botocore.exceptions.ProfileNotFound:
        raise SpecError(
            f"credentials_profile_name = {profile!r}: AWS's configuration has no such profile.",
            hint="Choose one of: aws configure list-profiles",
        ) from None
    address = str(params.get("base_url") or params.get("endpoint_url") or address)
    account = Account(place, profile, _keys_in(params))
    if token := os.environ.get(_BEARER):
        return SignedAccess(address, _Bearer(token, account), lambda: True)
    signer = _Signer(session, place, account.own, account)
    return SignedAccess(address, signer, signer.has_keys)


def _keys_in(params: Mapping[str, Any]) -> botocore.credentials.Credentials | None:
    """Return the keys that the spec itself holds, from its environment. Raises SpecError."""
    if "aws_access_key_id" not in params:
        return None
    if "aws_secret_access_key" not in params:
        raise SpecError(
            "params: aws_access_key_id is set without aws_secret_access_key.",
            hint="Set both, or take it out: keys of the environment are found without.",
        )
    token = params.get("aws_session_token")
    return botocore.credentials.Credentials(params["aws_access_key_id"], params["aws_secret_access_key"], token)


def account_of(sign: Sign | None) -> "Account":
    """Return the account of a model whose requests are signed by `bedrock_access`. Raises SpecError."""
    account = getattr(sign, "account", None)
    if not isinstance(account, Account):
        raise SpecError("Batch jobs on Bedrock need AWS's own credentials.", hint="export AWS_PROFILE=…, or keys.")
    return account


def keys_failure(exc: Exception) -> TransientModelError | FatalModelError:
    """Return the error of keys that cannot be renewed."""
    if keys_out_of_reach(exc):
        return TransientModelError(f"Bedrock: {_WHAT} cannot be renewed now ({type(exc).__name__}).")
    return not_renewed(exc, what=f"Bedrock: {_WHAT}", hint=_AGAIN)


@dataclass(frozen=True)
class Account:
    """Who asks, and in which region, for requests that boto3 itself sends: those of batch jobs and their files.
    `profile`: of AWS's configuration; `own`: keys of the spec's."""

    region: str
    profile: str | None = None
    own: botocore.credentials.Credentials | None = None

    def session(self) -> boto3.session.Session:
        """Return a new session: threads must not share one while they make clients."""
        keys = self.own
        return boto3.session.Session(
            region_name=self.region,
            profile_name=self.profile,
            aws_access_key_id=keys.access_key if keys is not None else None,
            aws_secret_access_key=keys.secret_key if keys is not None else None,
            aws_session_token=keys.token if keys is not None else None,
        )


@dataclass(frozen=True)
class _Bearer:
    """Says who asks by an API key of Bedrock's."""

    token: str
    account: Account

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass
class _Signer:
    """Signs requests with the keys of now; they may be renewed, which takes a request of its own."""

    session: Any
    region: str
    own: botocore.credentials.Credentials | None
    account: Account
    _found: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def has_keys(self) -> bool:
        """True if keys are found; outside of AWS that may take seconds. Raises ConnectionFailed."""
        try:
            return self._load() is not None
        except botocore.exceptions.BotoCoreError as exc:
            raise ConnectionFailed(f"Bedrock: {_WHAT} cannot be read ({type(exc).__name__}).", hint=_AGAIN) from exc

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        found = self._found
        renews = getattr(found, "refresh_needed", None)
        if found is None or (renews is not None and renews()):
            keys = await asyncio.to_thread(self._renewed)
        else:
            keys = found.get_frozen_credentials()
        return signed_headers(url, headers, body, keys=keys, scope=(self.region, _SERVICE))

    def _renewed(self) -> Any:
        try:
            found = self._load()
            if found is None:
                raise FatalModelError("Bedrock: no AWS credentials were found.", hint="export AWS_PROFILE=…, or keys.")
            return found.get_frozen_credentials()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as exc:
            raise keys_failure(exc) from None

    def _load(self) -> Any:
        """Return the keys, None if there are none."""
        with self._lock:
            if self._found is None:
                self._found = self.own or self.session.get_credentials()
            return self._found
