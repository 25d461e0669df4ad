"""How we call out: what an address names, a transport that never reaches inside, and messages that are signed."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from standardwebhooks.webhooks import Webhook as Signer

RETRY_AFTER_SECONDS_MAX = 86_400
GONE = 410
# Minutes to wait after each failed try; when they are used up, after about three days, a message is given up.
PAUSES_MINUTES = (5, 15, 30, 60, 120, 240, 480, 720, 1_080, 1_440)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotPublic(Exception):
    """The name stands for an address of this machine or of an inner network."""


class Answer(NamedTuple):
    """What became of one try. `error` is empty where it was accepted, and never quotes an address or a secret."""

    error: str = ""
    gone: bool = False  # the receiver wants nothing any more
    retry_after_seconds: int = 0


def signed(id: str, body: str, secrets: Sequence[str], at: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks; with a signature for every secret, so that they can be changed one by one."""
    return {
        "content-type": "application/json",
        "user-agent": f"syncserver/{settings.VERSION}",
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(id, at, body) for secret in secrets),
    }


def post(
    url: str, body: str, headers: dict[str, str], timeout_seconds: float, transport: httpx.BaseTransport | None = None
) -> Answer:
    """Raises what httpx and the transport raise. Redirects are not followed: they refuse."""
    with (
        httpx.Client(timeout=timeout_seconds, follow_redirects=False, transport=transport) as client,
        client.stream("POST", url, content=body, headers=headers) as response,  # whose body could be endless
    ):
        if response.is_success:
            return Answer()
        wait = response.headers.get("retry-after", "")
        seconds = int(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0
        gone = response.status_code == GONE
        return Answer(f"answered {response.status_code}", gone, min(seconds, RETRY_AFTER_SECONDS_MAX))


def may_be_called(url: str) -> bool:
    """Whether an address that a person gave is HTTPS, or plain HTTP to this machine where the settings allow that."""
    host, scheme = host_of(url), url.partition("://")[0].lower()
    plain = settings.DEBUG or (settings.SYNC_ALERT_WEBHOOK_LOOPBACK and is_loopback(host))
    return bool(host) and scheme in ({"http", "https"} if plain else {"https"})


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
    """Whether everybody reaches the same machine by it. What carries an IPv4 address is as public as that one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (inner := _carried(found)) is not None:
        return is_public(str(inner))
    return found.is_global and not found.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a gateway on the way would call: mapped, 6to4, Teredo or NAT64."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _resolve(host: str, port: int) -> str:
    """Raises NotPublic where one of a name's addresses is not, whichever would have been used."""
    try:
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise httpx.ConnectError(f"{host} cannot be resolved: {error.strerror}") from None
    if not all(map(is_public, found)):
        raise NotPublic(f"{host} is not a public address")
    return found[0]
