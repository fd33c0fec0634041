"""Where a policy's server may be, and which keys it may be sent.

An address is typed by an admin, and the worker calls it from inside the network that it stands in. So what
is not public (this machine, a private network, a cloud's own services) is called only where
PLACKETT_POLICY_PRIVATE_HOSTS allows it, and that is decided by the address which a connection goes to: a
name may mean another one tomorrow than when the policy was registered.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from app.errors import InvalidInput

# Only variables of this prefix are ever read for a key, so that no policy can send another one's content
# (DATABASE_URL, a cloud's credentials) to a server of its choice.
KEY_PREFIX = "PLACKETT_KEY_"
KEY_PATTERN = rf"^{KEY_PREFIX}[A-Z0-9_]{{1,80}}$"

Address = IPv4Address | IPv6Address
# Addresses that a network translates to the IPv4 one in their last four bytes (RFC 6052).
TRANSLATED = ip_network("64:ff9b::/96")


class NotReachable(Exception):  # noqa: N818
    """A server that is not called; the message is for people."""


class NotResolved(NotReachable):
    """A server whose name means nothing where this process runs."""


def plain(address: Address) -> Address:
    """The address that is really meant: IPv4 ones can be written as several kinds of IPv6 ones."""
    if isinstance(address, IPv6Address):
        if address in TRANSLATED:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def is_public(address: Address) -> bool:
    """Whether the address is one of the open internet's."""
    return plain(address).is_global and not plain(address).is_multicast


def is_allowed(host: str, address: Address, private_hosts: Sequence[str]) -> bool:
    """Whether a connection to this address may be made for a URL with this host."""
    if is_public(address):
        return True
    for entry in private_hosts:
        if entry.lower() == host.lower():
            return True
        try:
            network = ip_network(entry, strict=False)
        except ValueError:
            continue  # a name
        if plain(address) in network or address in network:
            return True
    return False


async def resolve(host: str, port: int, private_hosts: Sequence[str]) -> list[str]:
    """The addresses that may be connected to for this host, the preferred first. Raises NotReachable."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a name"
        raise NotResolved(f"the name {host} cannot be resolved: {reason}") from None
    # An IPv6 address of a link carries its interface: fe80::1%eth0.
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    allowed = [
        each
        for each in addresses
        if is_allowed(host, ip_address(each.partition("%")[0]), private_hosts)
    ]
    if not allowed:
        where = host if host == addresses[0] else f"{host} ({addresses[0]})"
        raise NotReachable(
            f"{where} is not a public address; PLACKETT_POLICY_PRIVATE_HOSTS can allow it"
        )
    return allowed


async def check_base_url(base_url: str | None, private_hosts: Sequence[str]) -> None:
    """Say at once, to whoever registers a server, that it would not be called. Raises InvalidInput.

    A name that cannot be resolved here is left to the worker, which may stand in another network.
    """
    if base_url is None:
        return
    parts = urlsplit(base_url)
    try:
        await resolve(parts.hostname or "", parts.port or 80, private_hosts)
    except NotResolved:
        return
    except NotReachable as error:
        raise InvalidInput(str(error), field="base_url") from None
