"""AWS's part of calls to Bedrock: where they go, and the signature that says who asks.

`stages` knows no AWS: it is handed `bedrock_access` (`stages.models.settings.choice.ModelServices`).
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.credentials
import botocore.exceptions
import botocore.session

from pipeline.sigv4 import signed_headers
from pipeline.stores.s3_environment import region
from pipeline.vertex import vertex_access
from schemas.errors import FatalModelError, SpecError
from stages.models.settings.choice import ModelServices
from stages.models.wires.signing import Sign, SignedAccess

_SERVICE = "bedrock"  # the signing name of `bedrock-runtime`
_BEARER = "AWS_BEARER_TOKEN_BEDROCK"  # an API key of Bedrock's, which goes before other credentials, as in boto3


def model_services() -> ModelServices:
    """Return the services of a process's models, access to clouds among them."""
    return ModelServices(bedrock=bedrock_access, vertex=vertex_access)


def bedrock_access(params: Mapping[str, Any]) -> SignedAccess:
    """Return the address and the signer of a model with these parameters, as boto3 finds both. Raises SpecError."""
    profile = params.get("credentials_profile_name")
    try:
        session = botocore.session.Session(profile=profile)
        client = session.create_client("bedrock-runtime", region_name=params.get("region_name") or region())
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
    """Return the keys that the spec itself holds, from its environment."""
    if "aws_access_key_id" not in params:
        return None
    token = params.get("aws_session_token")
    return botocore.credentials.Credentials(params["aws_access_key_id"], params["aws_secret_access_key"], token)


def account_of(sign: Sign | None) -> "Account":
    """Return the account of a model whose requests are signed by `bedrock_access`. Raises SpecError."""
    account = getattr(sign, "account", None)
    if not isinstance(account, Account):
        raise SpecError("Batch jobs on Bedrock need AWS's own credentials.", hint="export AWS_PROFILE=…, or keys.")
    return account


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

    def has_keys(self) -> bool:
        """True if keys are found; outside of AWS that may take seconds."""
        return self.own is not None or self.session.get_credentials() is not None

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return signed_headers(url, headers, body, keys=await self._keys(), scope=(self.region, _SERVICE))

    async def _keys(self) -> Any:
        found = self.own or self.session.get_credentials()
        if found is None:
            raise FatalModelError("Bedrock: no AWS credentials were found.", hint="export AWS_PROFILE=…, or keys.")
        renews = getattr(found, "refresh_needed", None)
        try:
            if renews is not None and renews():
                return await asyncio.to_thread(found.get_frozen_credentials)
            return found.get_frozen_credentials()
        except botocore.exceptions.BotoCoreError as exc:
            raise FatalModelError(
                f"Bedrock: the AWS credentials cannot be renewed ({type(exc).__name__}).", hint="Sign in again."
            ) from exc
