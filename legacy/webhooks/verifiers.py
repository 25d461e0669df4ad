"""Who sent it: each verifier knows one way in which systems sign what they send.

All of them are told every secret of the system, so that a new one is accepted before the old one goes.
"""

import binascii
import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from django.conf import settings
from standardwebhooks.webhooks import Webhook as Signer

SIGNATURES_MAX = 20  # looked at in one delivery: each costs a comparison with every secret
ID_CHARS_MAX = 200
_ID = re.compile(rf"[!-~]{{1,{ID_CHARS_MAX}}}")  # printable, without spaces


class Forged(Exception):
    """Nobody who knows a secret sent this now. The text is for the log: whoever sent it is not told why."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request as it came. `at` is when, by our clock; `secret` is what stood at the end of its path."""

    headers: Mapping[str, str]  # by their lower-case names
    body: bytes
    at: datetime
    secret: str = ""


class Verifier(Protocol):
    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> str:
        """The id that the sender gave the delivery and signed with it; empty where there is none. Raises Forged."""


@dataclass(frozen=True)
class StandardWebhooks:
    """`webhook-id`, `webhook-timestamp`, `webhook-signature`: v1, with secrets that begin with `whsec_`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> str:
        id = delivery.headers.get("webhook-id", "")
        if not _ID.fullmatch(id):
            raise Forged("webhook-id is missing")
        at = _time(delivery.headers.get("webhook-timestamp", ""), delivery.at)
        try:
            text = delivery.body.decode()
            expected = [Signer(secret).sign(id, at, text) for secret in secrets if secret]
        except (binascii.Error, ValueError) as error:  # the body is no UTF-8, or a secret no base64
            raise Forged(f"cannot be verified: {error}") from None
        # The library's own `verify` has a tolerance of five minutes built in, and fails in several ways.
        _demand(delivery.headers.get("webhook-signature", "").split(" "), expected)
        return id


@dataclass(frozen=True)
class Stamped:
    """As Stripe does: `t=<time>,v1=<HMAC-SHA256 of time, full stop, body>`, in hexadecimal."""

    header: str = "stripe-signature"

    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> str:
        parts = [part.partition("=") for part in delivery.headers.get(self.header, "").split(",")]
        stamp = next((value for name, _, value in parts if name.strip() == "t"), "")
        _time(stamp, delivery.at)
        signed = stamp.encode() + b"." + delivery.body
        _demand([value for name, _, value in parts if name.strip() == "v1"], _hexadecimal(secrets, signed))
        return ""


@dataclass(frozen=True)
class Signed:
    """As GitHub does: an HMAC-SHA256 of the body in a header. With `encoding` base64 and no prefix, as Shopify does.

    It has no time in it, so what was sent once can be sent again for ever. That is harmless: it is only a hint.
    """

    header: str = "x-hub-signature-256"
    prefix: str = "sha256="
    encoding: Literal["hex", "base64"] = "hex"

    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> str:
        given = delivery.headers.get(self.header, "")
        if not given.startswith(self.prefix):
            raise Forged(f"{self.header} is missing")
        encode = _hexadecimal if self.encoding == "hex" else _base64
        _demand([given.removeprefix(self.prefix)], encode(secrets, delivery.body))
        return ""


@dataclass(frozen=True)
class SecretPath:
    """For a system that signs nothing: its address ends in a secret, `/legacy/<system>/webhook/<secret>`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> str:
        _demand([delivery.secret], [secret for secret in secrets if secret])
        return ""


def secrets_of(system: str) -> list[str]:
    """Those that LEGACY_WEBHOOK_SECRETS has for a system; none: nothing is believed."""
    pairs = (each.partition(":") for each in settings.LEGACY_WEBHOOK_SECRETS)
    return [secret for name, _, secret in pairs if name == system and secret]


def _time(text: str, now: datetime) -> datetime:
    """The time of a signature, in seconds since 1970. Raises Forged for one that is not of now."""
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise Forged("it has no time")
    at = datetime.fromtimestamp(int(text), UTC)
    if abs((now - at).total_seconds()) > settings.LEGACY_WEBHOOK_TOLERANCE_SECONDS:
        raise Forged(f"it was signed at {at.isoformat()}: too long ago, or a clock is wrong")
    return at


def _demand(given: Iterable[str], expected: Iterable[str]) -> None:
    """Raises Forged unless one of the given is one of the expected. All are compared, each in constant time."""
    wanted = [each.encode() for each in expected]
    if not wanted:
        raise Forged("LEGACY_WEBHOOK_SECRETS has no secret for the system")
    signatures = [each.strip().encode(errors="replace") for each in given][:SIGNATURES_MAX]
    if not sum(hmac.compare_digest(one, other) for one in signatures for other in wanted):
        raise Forged("no signature fits")


def _hexadecimal(secrets: Sequence[str], signed: bytes) -> list[str]:
    return _macs(secrets, signed, bytes.hex)


def _base64(secrets: Sequence[str], signed: bytes) -> list[str]:
    return _macs(secrets, signed, lambda mac: b64encode(mac).decode())


def _macs(secrets: Sequence[str], signed: bytes, encode: Callable[[bytes], str]) -> list[str]:
    return [encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()) for secret in secrets if secret]
