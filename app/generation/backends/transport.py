"""The way out to policies' servers: it connects to no address that it has not looked at."""

from collections.abc import Sequence
from contextlib import suppress
from urllib.request import getproxies, proxy_bypass

import httpx

from app.policies.reach import NotResolved, resolve


class GuardedTransport(httpx.AsyncBaseTransport):
    """Resolves a host once, refuses what is not allowed, and connects to the address that it looked at.

    Left to resolve the name again, the client could be given another address than the one that was judged.
    """

    def __init__(self, private_hosts: Sequence[str]) -> None:
        self.private_hosts = private_hosts
        self._direct = httpx.AsyncHTTPTransport()
        self._proxied: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer. Raises NotReachable before anything is sent."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        proxy = _find_proxy(url)
        if proxy is not None:
            # The proxy resolves the name; what this machine can tell of it is judged all the same.
            with suppress(NotResolved):
                await resolve(url.host, port, self.private_hosts)
            if proxy not in self._proxied:
                self._proxied[proxy] = httpx.AsyncHTTPTransport(proxy=proxy)
            return await self._proxied[proxy].handle_async_request(request)
        addresses = await resolve(url.host, port, self.private_hosts)
        for address in addresses:
            # The certificate is still checked against the name, and the Host header says it.
            request.url = url.copy_with(host=address)
            request.extensions = {**request.extensions, "sni_hostname": url.host}
            try:
                return await self._direct.handle_async_request(request)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
        raise AssertionError("resolve() gives an address or raises")

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in (self._direct, *self._proxied.values()):
            await transport.aclose()


def _find_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for this address (HTTPS_PROXY, NO_PROXY)."""
    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
