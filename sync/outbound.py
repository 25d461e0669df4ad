"""Where we call out to: what an address names, and a transport that never reaches inside, whatever was typed."""

import ipaddress
import socket
from urllib.parse import urlsplit

import httpx


class NotPublic(Exception):
    """The name stands for an address of this machine or of an inner network."""


class PublicOnly(httpx.HTTPTransport):
    """Reaches public addresses only.

    The address that was checked is the one that is connected to: a name that answers differently the second time (DNS
    rebinding) gains nothing. Raises NotPublic.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        address = _resolve(host, request.url.port or (443 if request.url.scheme == "https" else 80))
        named = {} if address == host else {"sni_hostname": host}  # the certificate is the name's, as before
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, **named},
        )
        return super().handle_request(pinned)


def host_of(url: str) -> str:
    """Of an address; empty where it has none, or is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.is_global and not found.is_multicast


def _resolve(host: str, port: int) -> str:
    """Raises NotPublic where one of a name's addresses is not, whichever would have been used."""
    try:
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise httpx.ConnectError(f"{host} cannot be resolved: {error.strerror}") from None
    if not all(map(is_public, found)):
        raise NotPublic(f"{host} is not a public address")
    return found[0]
