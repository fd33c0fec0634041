"""Who a request is from, where proxies stand in between.

A proxy tells in headers whom it forwards for. Anybody can write such headers, so they are believed only
from the addresses that PLACKETT_TRUSTED_PROXIES names; by default from none.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.addresses import TOLD_PREFIX, read_prefix

log = structlog.get_logger(__name__)

# Whoever is warned of in the log, once each; nobody can fill the log by coming from many addresses.
MOST_WARNINGS = 20


class TrustedProxies:
    """Client, scheme and prefix of each request, as the trusted proxies that it came through tell."""

    def __init__(self, app: ASGIApp, *, trusted: Sequence[str]) -> None:
        self.app = app
        self.trusted = [ip_network(each, strict=False) for each in trusted]
        self._warned: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = (scope.get("client") or ("",))[0]
            headers = Headers(scope=scope)
            if self.trusts(peer):
                scope.update(self._as_told(headers, peer))
            elif "x-forwarded-for" in headers:
                self._warn(peer)
        await self.app(scope, receive, send)

    def trusts(self, address: str) -> bool:
        """Whether what this address tells of others is believed."""
        found = read_address(address)
        return found is not None and any(found in network for network in self.trusted)

    def _as_told(self, headers: Headers, peer: str) -> Scope:
        told: Scope = {}
        client = peer
        # Each proxy appends whom it heard from, so the list is read from its end, as far as it was written
        # by proxies that are trusted: what stands before may be anybody's invention.
        for each in reversed(",".join(headers.getlist("x-forwarded-for")).split(",")):
            found = read_address(each)
            if found is None:
                break
            client = str(found)
            if not self.trusts(client):
                break
        if client != peer:
            told["client"] = (client, 0)
        scheme = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            told["scheme"] = scheme
        prefix = read_prefix(headers.get("x-forwarded-prefix", ""))
        if prefix:
            told[TOLD_PREFIX] = prefix
        return told

    def _warn(self, peer: str) -> None:
        if peer in self._warned or len(self._warned) >= MOST_WARNINGS:
            return
        self._warned.add(peer)
        log.warning(
            "a proxy that is not trusted forwards requests: everybody behind it counts as one client "
            "(PLACKETT_TRUSTED_PROXIES names those that are trusted)",
            peer=peer,
        )


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in an entry of X-Forwarded-For, which may carry a port; None where there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
