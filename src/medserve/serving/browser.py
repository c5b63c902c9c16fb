"""What a browser adds: cookies, and requests that another site makes it send.

    shown = session_cookie(scope)        # "" without one; Forbidden where another site could be behind the request
    set_cookie(scope, settings, SESSION, token, path="/", same_site="Strict", max_age_s=28800)
    own_url(scope, settings)             # "https://medserve.hospital.example"

A cookie is sent by the browser whoever made it ask, so a session in one is taken for reading, or where `Origin` names
this service itself; a script of another site can set neither.
"""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from medserve.serving.gate import Forbidden
from medserve.serving.wire import Header, Scope, header
from medserve.settings import Settings

SESSION, LOGIN = "medserve_session", "medserve_login"
READING = ("GET", "HEAD")


def cookie(scope: Scope, name: str) -> str:
    """Its value, "" where it is absent or not alone of its name."""
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == b"cookie"]
    if len(found) != 1 or found[0].count(f"{name}=") != 1:
        return ""
    try:
        morsel = SimpleCookie(found[0]).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def session_cookie(scope: Scope) -> str:
    """The session in the cookie. Raises: Forbidden "cross-site"."""
    shown = cookie(scope, SESSION)
    if shown and scope["method"] not in READING and not _same_origin(scope):
        raise Forbidden(
            "cross-site",
            "A session in a cookie changes something only from this service's own pages.",
            hint="Send the Origin header of this service, or 'Authorization: Bearer TOKEN'.",
        )
    return shown


def _same_origin(scope: Scope) -> bool:
    """A proxy with TLS may stand in front, so a page over https is at home behind plain http; not the other way."""
    origin = urlsplit(header(scope, b"origin"))
    return (
        origin.scheme in ({"https"} if scope.get("scheme") == "https" else {"http", "https"})
        and bool(origin.netloc)
        and origin.netloc.lower() == header(scope, b"host").lower()
    )


def set_cookie(
    scope: Scope, settings: Settings, name: str, value: str, *, path: str, same_site: str, max_age_s: int
) -> Header:
    """The header; an empty value with age 0 takes the cookie away."""
    secure = "; Secure" if own_url(scope, settings).startswith("https:") else ""
    text = f"{name}={value}; Path={path}; Max-Age={max_age_s}; HttpOnly; SameSite={same_site}{secure}"
    return (b"set-cookie", text.encode("ascii"))


def own_url(scope: Scope, settings: Settings) -> str:
    """Where clients reach this service: as set, else its own address; never what a request says in its Host header."""
    if settings.public_url:
        return settings.public_url
    host, port = scope["server"]
    name = f"[{host}]" if ":" in host else host
    return f"{scope.get('scheme', 'http')}://{name}:{port}"


def address(scope: Scope) -> str:
    """Of the client; behind a proxy, the proxy's."""
    client = scope.get("client")
    return client[0] if client else ""
