"""Who may ask: the names that the service goes by, the pages that may use it, and what browsers are told.

A browser sends requests for any page that is open in it, also to a service that only this machine can reach. So a page
of another site could teach or forget (cross-site request forgery), and one that makes its own name point to this
machine could even read (DNS rebinding). Against the first stands `Origin`, which a page cannot choose, against the
second `Host`, which in rebinding is the name of the attacker. Programs that are no browsers send no `Origin`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everclip.errors import InputError
from everclip.system.display import visible

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a service on this machine is called by this machine."""
IN_PROCESS = "testserver"
"""What starlette's `TestClient` calls an app that it calls without any network."""

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\s:/?#@\[\]]+)(?::(?P<port>\d{1,5})?)?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # no page may show this one in itself and have it clicked on
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Authority(NamedTuple):
    """A name, or an address without brackets, and a port."""

    name: str
    port: int | None


def authority(text: str) -> Authority | None:
    """`NAME:PORT`, as `Host` and `Origin` have it; None where it is nothing of the kind."""
    found = _AUTHORITY.fullmatch(text)
    return found and Authority(_same(found["name"]), int(found["port"]) if found["port"] else None)


def host_name(text: str) -> str:
    """A name to be served, as a person gives it.

    Raises:
        InputError: it is no name of a host.
    """
    found = authority(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if found is None or text.endswith(":") or found.port is not None or not found.name.strip(".*"):
        raise InputError(
            f"--allow-host {visible(text)} is no name of a host; give it without scheme and port, such as "
            "photos.example.org."
        )
    return found.name


def _same(name: str) -> str:
    """One spelling of a name or an address."""
    plain = name.strip("[]").rstrip(".").casefold()
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return plain
    return str(getattr(address, "ipv4_mapped", None) or address)


class Guard:
    """Refuses requests under a foreign name and from foreign pages, before anything of them is read.

    Args:
        app: what answers the others.
        hosts: names that it goes by, beside the address at which a connection arrived.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(map(_same, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse; either way tell browsers to keep the answer from other pages."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            return await self._app(scope, receive, told)
        status, sentence = refusal
        return await JSONResponse({"error": sentence}, status, {"Connection": "close"})(scope, receive, told)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        said = headers.getlist("host")
        host = authority(said[0]) if len(said) == 1 else None
        if host is None or not self._serves(host.name, scope):
            shown = visible(", ".join(said))[:80] or "none"
            return (
                421,
                f"this service is not called {shown}, the Host of this request; start it with --allow-host NAME.",
            )
        for origin in headers.getlist("origin"):
            if not _own(origin, host, scope["scheme"]):
                return 403, f"pages of {visible(origin)[:80]} may not use this service, only its own page may."
        # Browsers send no Origin where a page shows an image, runs a script or follows a link; they say this instead.
        if "origin" not in headers and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if not (opened and scope["method"] in ("GET", "HEAD")):
                return 403, "pages of other sites may not use this service, only its own page may."
        return None

    def _serves(self, name: str, scope: Scope) -> bool:
        return name in self._hosts or name == _arrived_at(scope)


def _arrived_at(scope: Scope) -> str | None:
    """The address of this machine that a connection came to. No name points a browser there under that address."""
    server = scope.get("server")
    try:
        return _same(str(ipaddress.ip_address(server[0]))) if server else None
    except ValueError:
        return None


def _own(origin: str, host: Authority, scheme: str) -> bool:
    """Whether a page of `origin` is the service's own: one name, and one port.

    A proxy that ends TLS asks with http for a page of https. So where a request names no port, a name (not a loopback
    one) may be that of either.
    """
    kind, separator, rest = origin.partition("://")
    page = authority(rest) if separator and kind in _DEFAULT_PORTS else None
    if page is None or page.name != host.name:
        return False
    ports = {host.port}
    if host.port is None:
        ports = {_DEFAULT_PORTS.get(scheme)} if host.name in LOOPBACK else set(_DEFAULT_PORTS.values())
    return (page.port or _DEFAULT_PORTS[kind]) in ports
