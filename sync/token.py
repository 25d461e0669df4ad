"""The pull token: how far a device has read. Pure values; only the server makes and reads them.

A position is a PostgreSQL snapshot, not a number: it says exactly which transactions were committed. What a device has
is everything visible in it; what it lacks is the rest. So nothing that commits late can be missed, and no open
transaction holds the feed back (docs/decisions/0001).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

_SIGNATURE_BYTES = 16
_XID_MAX = 2**64 - 1
_SNAPSHOT = re.compile(r"(\d{1,20}):(\d{1,20}):((?:\d{1,20}(?:,\d{1,20})*)?)")


class InvalidToken(ValueError):
    """The text is no token that this server made."""


@dataclass(frozen=True)
class Snapshot:
    """Which transactions were committed at a moment, as `pg_snapshot` prints it: `xmin:xmax:open,open,…`."""

    text: str

    def __post_init__(self) -> None:
        found = _SNAPSHOT.fullmatch(self.text)
        if not found:
            raise InvalidToken("not a snapshot")
        xmin, xmax = int(found[1]), int(found[2])
        xip = [int(xid) for xid in found[3].split(",") if xid]
        if not 0 < xmin <= xmax <= _XID_MAX or any(not xmin <= xid < xmax for xid in xip) or xip != sorted(set(xip)):
            raise InvalidToken("not a snapshot")


@dataclass(frozen=True)
class Run:
    """A run of pages that is under way: the snapshot it reads up to, and where the last page ended.

    `floor`: of a first load the snapshot that its first page read up to; None of any other.
    """

    target: Snapshot
    floor: Snapshot | None
    lane: int
    xid: int
    seq: int


@dataclass(frozen=True)
class Token:
    """`base` is None before the first load is complete. Which scopes were read up to it, the log of grants says.

    `witness` is what the database said of itself (`sync_standing`).
    """

    epoch: UUID
    device: UUID
    base: Snapshot | None
    run: Run | None = None
    witness: str = ""


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    epoch: bytes
    device: bytes
    base: str | None
    run: tuple[str, str | None, int, int, int] | None
    witness: str


def encode(token: Token, key: bytes) -> str:
    """The URL-safe text of a token, signed with `key`."""
    run = token.run
    body = msgspec.msgpack.encode(
        _Wire(
            token.epoch.bytes,
            token.device.bytes,
            token.base.text if token.base else None,
            (run.target.text, run.floor.text if run.floor else None, run.lane, run.xid, run.seq) if run else None,
            token.witness,
        )
    )
    return base64.urlsafe_b64encode(_signature(body, key) + body).decode().rstrip("=")


def decode(text: str, keys: Sequence[bytes]) -> Token:
    """The token of a text that `encode` made with one of `keys`. Raises InvalidToken for any other text."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidToken("not base64") from error
    signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not any(hmac.compare_digest(signature, _signature(body, key)) for key in keys):
        raise InvalidToken("not signed by this server")
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
        run = wire.run
        return Token(
            UUID(bytes=wire.epoch),
            UUID(bytes=wire.device),
            Snapshot(wire.base) if wire.base else None,
            Run(Snapshot(run[0]), Snapshot(run[1]) if run[1] else None, *run[2:]) if run else None,
            wire.witness,
        )
    except (msgspec.MsgspecError, ValueError) as error:  # made by another version of this server
        raise InvalidToken("not readable") from error


def _signature(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(
        body, key=hashlib.sha256(key).digest(), digest_size=_SIGNATURE_BYTES, person=b"sync-token"
    ).digest()
