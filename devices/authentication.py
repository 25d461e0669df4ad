"""Which device calls: a bearer token, looked up by its hash with one query that brings the scopes too."""

import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from devices import usage
from devices.models import Device, Usage, unused, unused_before
from syncserver.errors import Problem
from syncserver.logs import DEVICE_KEY

UNKNOWN = -1
PENDING_MAX = 2**31 - 1  # of a PostgreSQL integer
_PRODUCT = re.compile(r"[\w.@+-]+(/[\w.+-]+)?")


class DeviceAuthentication(BaseAuthentication):
    """`Authorization: Bearer <device token>`. `request.user` is then the Device, with its `scopes`.

    Of its fields only those that `devices_identity` returns are loaded. No bearer token at all is left to the
    permission of the view; a wrong one raises Problem `unauthorized`, a revoked device's `device_revoked`.
    """

    def authenticate(self, request: Request) -> tuple[Device, None] | None:
        device = authenticated(request._request)
        return None if device is None else (device, None)

    def authenticate_header(self, _request: Request) -> str:
        return "Bearer"


class WipedAuthentication(DeviceAuthentication):
    """For the one call that a revoked device may make that was told to wipe. Raises Problem `forbidden` for others."""

    def authenticate(self, request: Request) -> tuple[Device, None] | None:
        if (hashed := bearer_hash(request)) is None:
            return None
        device, revoked = look_up(hashed, request._request)
        if not revoked:
            raise Problem("forbidden", "Nobody has asked this device to delete its data.")
        if not device.wipe:
            raise refusal(wipe=False)
        return device, None


class DeviceScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "devices.authentication.DeviceAuthentication"
    name = "device"

    def get_security_definition(self, _auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "The token that POST /devices/enroll returned."}


def token_hash(token: str) -> bytes:
    """What is stored in place of a device's token."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def bearer_hash(request: HttpRequest) -> bytes | None:
    """The hash of the request's bearer token, or None where there is none."""
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token_hash(token.strip()) if scheme.lower() == "bearer" else None


def authenticated(request: HttpRequest) -> Device | None:
    """The device that calls; None without a bearer token. Notes that it called.

    Raises Problem as `identify`, `stop_runaway` and `seen` do.
    """
    if (hashed := bearer_hash(request)) is None:
        return None
    device = identify(hashed, request)
    stop_runaway(hashed)
    seen(hashed, device.id, device.last_seen_at, request.META.get("HTTP_SYNC_CLIENT"), device.pending)
    return device


def identify(hashed: bytes, request: HttpRequest | None = None) -> Device:
    """The device of a token's hash, in one query. Raises Problem `unauthorized` or `device_revoked`.

    The `request`'s access log line names the device from here on.
    """
    device, revoked = look_up(hashed, request)
    if revoked:
        raise refusal(device.wipe)
    return device


def look_up(hashed: bytes, request: HttpRequest | None = None) -> tuple[Device, bool]:
    """The same, also of a device that was revoked, and whether it was. Raises Problem `unauthorized`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, user_id, wipe, last_seen_at, pending, devices_scopes(id), revoked "
            "FROM devices_identity(%s)",
            [hashed],
        )
        row = cursor.fetchone()
    if row is None:
        raise Problem("unauthorized", "The bearer token is not one of a device.")
    *fields, scopes, revoked = row
    device = Device.from_db(connection.alias, ("id", "name", "user_id", "wipe", "last_seen_at", "pending"), fields)
    device.scopes = scopes
    if request is not None:
        request.META[DEVICE_KEY] = device.id
    return device, revoked


def stop_runaway(hashed: bytes) -> None:
    """Raise Problem `rate_limited` where the device has used up its requests; for a revoked one as `identify` does."""
    now = timezone.now()
    if (until := usage.requests.refused_until(hashed, now)) is not None:
        identify(hashed)
        raise usage.refusal(Usage.Kind.REQUESTS, until, now)


def device_of(request: Request) -> Device:
    """The device that `DeviceAuthentication` found."""
    device = request.user
    assert isinstance(device, Device)  # of views that demand authentication
    return device


def refusal(wipe: bool) -> Problem:
    """What a device is told on every call that was revoked, or not used for too long."""
    return Problem("device_revoked", wipe=True) if wipe else Problem("device_revoked")


class Report(NamedTuple):
    """What a Sync-Client header says; None where it does not, or cannot be read."""

    client: str
    pending: int | None
    oldest: datetime | None


# One statement, of which two at once write one only. A device that was not used for too long stays as it is.
_NOTE = """
WITH noted AS (
    UPDATE devices_device d SET
        last_seen_at = %(now)s,
        client = coalesce(%(client)s, d.client),
        pending = CASE WHEN %(told)s THEN %(pending)s ELSE d.pending END,
        oldest_pending_at = CASE WHEN %(told)s THEN %(oldest)s ELSE d.oldest_pending_at END,
        old_token_until = CASE WHEN d.token_hash = %(hashed)s AND d.old_token_hash IS NOT NULL
                               THEN coalesce(d.old_token_until, %(grace_ends)s) ELSE d.old_token_until END
    WHERE d.id = %(device)s AND %(hashed)s IN (d.token_hash, d.old_token_hash)
      AND (%(at_once)s OR d.last_seen_at IS NULL OR d.last_seen_at <= %(due_before)s
           OR (d.token_hash = %(hashed)s AND d.old_token_hash IS NOT NULL AND d.old_token_until IS NULL))
      AND (greatest(coalesce(d.last_seen_at, d.created_at), d.let_in_at) < %(unused_before)s) IS NOT TRUE
    RETURNING d.id
)
SELECT devices_count(noted.id, %(kind)s, %(count)s, %(hour_max)s, %(day_max)s) FROM noted
"""


def seen(
    hashed: bytes,
    device_id: uuid.UUID,
    last_seen_at: datetime | None,
    header: str | None,
    pending: int | None = UNKNOWN,
) -> None:
    """Note that a device has called with the token of that hash, and what its Sync-Client header told.

    Raises Problem `device_revoked` for one that was not used for SYNC_DEVICE_UNUSED_DAYS_MAX: to be called before
    anything is answered. Writes at most every SYNC_LAST_SEEN_SECONDS, except that three things are noted at once: the
    first use of a new token; an outbox that became empty, or no longer is, where it is known what was noted last
    (`pending`), since a device that empties its outbox and goes silent must not look stuck; and many requests.
    """
    now = timezone.now()
    due_before = now - timedelta(seconds=settings.SYNC_LAST_SEEN_SECONDS)
    report = parse_client(header) if header else None
    turned = (
        report is not None
        and report.pending is not None
        and pending != UNKNOWN
        and bool(report.pending) != bool(pending)
    )
    due = last_seen_at is None or last_seen_at <= due_before
    if not (count := usage.requests.count(hashed, now, due or turned)):
        return
    facts = usage.parameters(Usage.Kind.REQUESTS, device_id, count) | {
        "now": now,
        "hashed": hashed,
        "at_once": turned or not due,
        "due_before": due_before,
        "unused_before": unused_before(now),
        "grace_ends": now + timedelta(seconds=settings.SYNC_TOKEN_GRACE_SECONDS),
        "told": report is not None,
        "client": report and report.client,
        "pending": report and report.pending,
        "oldest": report and report.oldest,
    }
    with connection.cursor() as cursor:
        cursor.execute(_NOTE, facts)
        row = cursor.fetchone()
    usage.requests.added(hashed, count, row and row[0], now)
    if row is None:
        _refuse_unless_known(hashed, device_id, now)


def _refuse_unless_known(hashed: bytes, device_id: uuid.UUID, now: datetime) -> None:
    """Raise Problem where nothing was noted for another reason than that somebody else was faster."""
    mine = Device.objects.filter(Q(token_hash=hashed) | Q(old_token_hash=hashed), pk=device_id)
    if mine.filter(unused(now)).exists():
        raise refusal(wipe=False)
    if not mine.exists():
        # A token that was never used may die between its look-up and its first use, when a rotation that was sent
        # twice arrives the second time. Told that it works, its device would throw the older one away.
        raise Problem("unauthorized", "Another token was given out in this one's place.")


@lru_cache(maxsize=1024)
def parse_client(header: str) -> Report:
    """Read `<sdk>/<version>; pending=12; oldest=<datetime>` leniently: what cannot be read is left out."""
    product, *parameters = (part.strip() for part in header.split(";"))
    given = dict(parameter.partition("=")[::2] for parameter in parameters)
    return Report(
        product[:100] if _PRODUCT.fullmatch(product) else "",
        _pending(given.get("pending", "").strip(' "')),
        _moment(given.get("oldest", "").strip(' "')),
    )


def _pending(text: str) -> int | None:
    return min(int(text), PENDING_MAX) if re.fullmatch(r"[0-9]{1,15}", text) else None


def _moment(text: str) -> datetime | None:
    try:
        moment = parse_datetime(text)
        return moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
