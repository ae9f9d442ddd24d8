"""Google Cloud's part of calls to Vertex AI: where they go, and the token that says who asks.

`stages` knows no cloud: it is handed `vertex_access` (`stages.models.settings.choice.ModelServices`).
"""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import FatalModelError, SpecError
from stages.models import credentials
from stages.models.credentials import GoogleCloud
from stages.models.failures.errors import not_renewed
from stages.models.wires.signing import SignedAccess

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_VERSION = "v1beta1"  # as Google's SDK calls Vertex AI, if the environment names no other
_REGIONS = ("us", "eu")  # places of several regions, with hosts of their own kind
SIGN_IN = "gcloud auth application-default login, or export GOOGLE_APPLICATION_CREDENTIALS=FILE."
_NO_PACKAGE = "Vertex AI needs a package that is not installed."
_INSTALL = "pip install 'tandem-pipeline[google]'"


def vertex_access(params: Mapping[str, Any]) -> SignedAccess:
    """Return the address of a model with these parameters, and what proves who asks: an API key in express mode, else
    a token of the application default credentials. Raises SpecError."""
    cloud = credentials.google_cloud(params)
    if not cloud.api_key:
        _refuse_nowhere(cloud)
    own = str(params.get("base_url") or credentials.base_url("google_vertexai"))
    version = credentials.google_version(_VERSION, _VERSION)
    address = f"{(own or _host(cloud)).rstrip('/')}/{version}"
    if cloud.api_key:
        return SignedAccess(address, _Key(cloud.api_key), lambda: True)
    token = _Token(needed=not own)
    return SignedAccess(address, token, token.is_found)


def _refuse_nowhere(cloud: GoogleCloud) -> None:
    for what, found, variable, example in (
        ("project", cloud.project, "GOOGLE_CLOUD_PROJECT", "my-project"),
        ("location", cloud.location, "GOOGLE_CLOUD_LOCATION", "global"),
    ):
        if not found:
            raise SpecError(
                f"Vertex AI needs a {what}, and none is set.",
                hint=f"export {variable}={example}, or set params: {{{what}: {example}}}.",
            )


def _host(cloud: GoogleCloud) -> str:
    """Return the host of a location, as Google's SDK has it."""
    if cloud.location in ("", "global"):
        return "https://aiplatform.googleapis.com"
    if cloud.location in _REGIONS:
        return f"https://aiplatform.{cloud.location}.rep.googleapis.com"
    return f"https://{cloud.location}-aiplatform.googleapis.com"


@dataclass(frozen=True)
class _Key:
    """Says who asks by an API key."""

    key: str

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return {"x-goog-api-key": self.key}


@dataclass
class _Token:
    """Says who asks by the token of now, which is renewed before it expires; that takes a request of its own. At a
    server that is not Google's, credentials are not `needed`."""

    needed: bool
    _found: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_found(self) -> bool:
        """True if credentials are found, or none are needed; outside of Google Cloud that may take seconds. Raises
        SpecError."""
        if not self.needed:
            return True
        try:
            import google.auth  # noqa: F401
        except ImportError as exc:
            raise SpecError(_NO_PACKAGE, hint=_INSTALL) from exc
        with self._lock:
            return self._load() is not None

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        found = self._found
        if found is None or not found.valid:
            found = await asyncio.to_thread(self._renewed)
        if found is None:
            return {}
        billed = {"x-goog-user-project": found.quota_project_id} if found.quota_project_id else {}
        return {"Authorization": f"Bearer {found.token}", **billed}

    def _renewed(self) -> Any:
        """Return credentials with a token that is valid; of many callers at once, one renews it."""
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
        except ImportError as exc:
            if not self.needed:
                return None
            raise FatalModelError(_NO_PACKAGE, hint=_INSTALL) from exc
        with self._lock:
            found = self._load()
            if found is None and self.needed:
                raise FatalModelError("Vertex AI: no credentials of Google Cloud were found.", hint=SIGN_IN)
            if found is None or found.valid:
                return found
            try:
                found.refresh(Request())
            except GoogleAuthError as exc:
                what = "Vertex AI: the credentials of Google Cloud"
                raise not_renewed(exc, what=what, hint=f"Sign in again: {SIGN_IN}") from None
            return found

    def _load(self) -> Any:
        """Return the application default credentials, None if there are none."""
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        if self._found is None:
            try:
                self._found, _ = google.auth.default(scopes=_SCOPES)
            except DefaultCredentialsError:
                return None
        return self._found
