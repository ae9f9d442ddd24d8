"""Who may see and change something: a token, then a cookie; the Host and Origin of requests; a token of each form.

    Host      a name or address that the page is served under: a foreign name could be pointed here (DNS rebinding)
    token     random, in the printed URL; exchanged for a cookie, so that it stays out of the history and of links
    Origin    of everything but reading: the page's own
    csrf      in each form, made from the token

Headers let the browser run no script but the page's own file, load nothing from elsewhere, and frame it nowhere.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import UsageError

MOST_BODY = 256 * 1024  # bytes of a form
PUBLIC = "/static/"
_READING = ("GET", "HEAD")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # not no-referrer, under which browsers hide the Origin of forms as well
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_LOCKED = (
    "This page needs its token.\n\nOpen the URL that `tandem ui` printed: it ends in ?token=…\n"
    "After that the browser has a cookie, and links work without it.\n"
)


class Refused(UsageError):
    """A request that is not from the page itself."""


class BodyTooLarge(UsageError):
    """A form of more than MOST_BODY bytes."""


@dataclass(frozen=True)
class Access:
    """`host` and `port` are those that the page listens on, `allowed` further names it is reached under (a proxy's).
    `acts`: forms may change something. `reviewer_header`: a proxy's header with the name of the person."""

    token: str
    host: str
    port: int
    allowed: frozenset[str] = frozenset()
    acts: bool = True
    reviewer_header: str | None = None

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies do not tell ports apart, and another page may be on the next one."""
        return f"tandem-{self.port}"

    @property
    def browser_cookie(self) -> str:
        """The cookie that tells browsers apart, so that two reviewers are not shown the same question."""
        return f"{self.cookie}-browser"

    @property
    def session(self) -> str:
        return self._derived("session")

    @property
    def csrf(self) -> str:
        return self._derived("csrf")

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()

    def is_host(self, header: str) -> bool:
        """True for a Host header that names this page. An address cannot be pointed elsewhere, so any is as good as
        ours if the page listens on more than this machine."""
        name = _name_of(header)
        if name in self.allowed or name in _LOOPBACK or name == self.host:
            return True
        return not is_loopback(self.host) and _is_address(name)

    def is_origin(self, origin: str, host: str) -> bool:
        """True for the page's own origin; behind a proxy that of an allowed name."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and (parts.netloc == host or _name_of(parts.netloc) in self.allowed)

    def knows(self, cookies: Mapping[str, str], authorization: str) -> bool:
        scheme, _, credential = authorization.partition(" ")
        bearer = scheme.lower() == "bearer" and _equal(credential, self.token)
        return bearer or _equal(cookies.get(self.cookie, ""), self.session)


def is_loopback(host: str) -> bool:
    return host in _LOOPBACK or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(netloc: str) -> str:
    """Return the name of `name:port` or `[address]:port`, in lower case."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


class Guard:
    """The middleware that lets requests in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not let in, or the one that sets the cookie."""
        headers = request.headers
        if not self._access.is_host(headers.get("host", "")):
            return _refused(
                421, "The page is not served under this name.\n\nAdd it with: tandem ui --allowed-host NAME\n"
            )
        if (reason := _foreign(self._access, request.method, headers)) is not None:
            return _refused(403, reason)
        if request.url.path.startswith(PUBLIC):
            return None
        token = request.query_params.get("token")
        if token is not None and request.method in _READING:
            return self._exchanged(request) if _equal(token, self._access.token) else _refused(401, _LOCKED)
        if not self._access.knows(request.cookies, headers.get("authorization", "")):
            return _refused(401, _LOCKED)
        return None

    def _exchanged(self, request: Request) -> Response:
        """Set the cookie, and go to the same address without the token."""
        rest = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
        path = f"/{request.url.path.lstrip('/')}"  # not `//host`, which would lead elsewhere
        response = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, 303)
        cookies = {self._access.cookie: self._access.session, self._access.browser_cookie: token_hex(8)}
        for name, value in cookies.items():
            response.set_cookie(name, value, httponly=True, samesite="lax", path="/")
        return response


def _foreign(access: Access, method: str, headers: Headers) -> str | None:
    """Return why a request comes from another site, None if it does not."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if method in _READING:
        linked = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site in ("cross-site", "same-site") and not linked:
            return "Another site may link to this page, not load it.\n"
        return None
    if origin is not None and access.is_origin(origin, headers.get("host", "")):
        return None
    if origin is None and site == "same-origin":
        return None
    return "Only the page itself may change something.\n"


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)


async def form_of(request: Request, access: Access) -> dict[str, str]:
    """Return the fields of a form. Raises Refused for one that the page did not make or that may change nothing,
    BodyTooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY:
            raise BodyTooLarge(f"The form has more than {MOST_BODY // 1024} KiB.")
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=200))
    except ValueError:
        raise Refused("This is no form of the page.", hint="Load the page again.") from None
    if not _equal(fields.pop("csrf", ""), access.csrf):
        raise Refused("The form is not of this page, or older than it.", hint="Load the page again.")
    if not access.acts:
        raise Refused(
            "This page only shows: it changes nothing.",
            hint="Start it with: tandem ui --allow-acts, or use the command.",
        )
    return fields
