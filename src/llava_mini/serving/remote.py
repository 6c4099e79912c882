"""Pictures and videos at web addresses, for a server that was told which hosts to trust.

A request may name any address, so everything about it is hostile: the host must be on the list, its name is resolved
once and the connection goes to that very address (no second answer of the name server counts), which must be public;
redirects are not followed; bytes and time are bounded.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import certifi
import httpx

from llava_mini.errors import InputError, MediaError

_SECONDS = 20.0
_INSIDE = tuple(ipaddress.IPv6Network(net) for net in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10"))
"""IPv4 addresses in disguise (compatible, translated, translated locally) and the old site-local ones."""
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Remote:
    """Fetches files from some hosts, by default from none."""

    def __init__(
        self,
        hosts: Iterable[str] = (),
        *,
        resolve: Resolve = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._resolve = resolve
        self._transport = transport
        self._tls = ssl.create_default_context(cafile=certifi.where())

    def fetch(self, url: str, max_bytes: int) -> bytes:
        """Return the bytes at an address.

        Raises:
            InputError: when its host is not allowed, or the address is none that is fetched.
            MediaError: when it cannot be fetched whole.
        """
        address, host = self._checked(url)
        pinned = self._public(host, address.port or (443 if address.scheme == "https" else 80))
        try:
            return asyncio.run(self._get(address, host, pinned, max_bytes))
        except TimeoutError as error:
            raise MediaError(f"a file at {host} was not there after {_SECONDS:g} s") from error
        except httpx.HTTPError as error:
            raise MediaError(f"a file at {host} could not be fetched ({type(error).__name__})") from error

    async def _get(self, address: httpx.URL, host: str, pinned: str, max_bytes: int) -> bytes:
        """Fetch from one address within one deadline; each file by a client of its own, so that no cookie is kept."""
        data = bytearray()
        settings: dict[str, Any] = {"follow_redirects": False, "trust_env": False, "timeout": httpx.Timeout(5.0)}
        async with (
            asyncio.timeout(_SECONDS),
            httpx.AsyncClient(transport=self._transport, verify=self._tls, **settings) as client,
        ):
            request = client.build_request(
                "GET",
                address.copy_with(host=pinned),
                headers={
                    "Host": address.netloc.decode("ascii"),
                    "User-Agent": "llava-mini",
                    "Accept-Encoding": "identity",
                },
                extensions={"sni_hostname": host},
            )
            response = await client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise MediaError(f"{host} answered {response.status_code}; redirects are not followed")
                async for chunk in response.aiter_raw(65_536):
                    data += chunk
                    if len(data) > max_bytes:
                        raise MediaError(f"a file at {host} has more than {max_bytes:,} bytes; give a smaller one")
            finally:
                await response.aclose()
        return bytes(data)

    def _checked(self, url: str) -> tuple[httpx.URL, str]:
        """Return an address and its host, after a look at both."""
        try:
            address = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise InputError("a web address is not valid; send a data URI such as data:image/png;base64,…") from error
        host = address.host.lower().rstrip(".")
        if host not in self._hosts:
            raise InputError(
                "files at web addresses are not fetched from this host; send a data URI such as data:image/png;base64,…"
            )
        if address.userinfo or address.port not in (None, 80, 443):
            raise InputError("a web address with a password or an unusual port is not fetched")
        return address, host

    def _public(self, host: str, port: int) -> str:
        """Return one address of a host, all of which must be public."""
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise MediaError(f"{host} has no address") from error
        if not found or not all(is_public(one) for one in found):
            raise InputError(f"{host} is not a public host; nothing is fetched from it")
        return found[0]


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the public internet; what is embedded in an IPv6 address counts too."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None and not inner.is_global:
            return False
        if any(found in network for network in _INSIDE):
            return False
    return found.is_global and not found.is_multicast
