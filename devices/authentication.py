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

from devices.models import Device
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
    """The device that calls; None without a bearer token. Notes that it called. Raises Problem as `identify` does."""
    if (hashed := bearer_hash(request)) is None:
        return None
    device = identify(hashed, request)
    seen(device.id, device.last_seen_at, request.META.get("HTTP_SYNC_CLIENT"), device.pending)
    return device


def identify(hashed: bytes, request: HttpRequest | None = None) -> Device:
    """The device of a token's hash, in one query. Raises Problem `unauthorized` or `device_revoked`.

    The `request`'s access log line names the device from here on.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, user_id, wipe, last_seen_at, pending, scopes, revoked FROM devices_identity(%s)", [hashed]
        )
        row = cursor.fetchone()
    if row is None:
        raise Problem("unauthorized", "The bearer token is not one of a device.")
    *fields, scopes, revoked = row
    device = Device.from_db(connection.alias, ("id", "name", "user_id", "wipe", "last_seen_at", "pending"), fields)
    device.scopes = scopes
    if request is not None:
        request.META[DEVICE_KEY] = device.id
    if revoked:
        raise refusal(device.wipe)
    return device


def device_of(request: Request) -> Device:
    """The device that `DeviceAuthentication` found."""
    device = request.user
    assert isinstance(device, Device)  # of views that demand authentication
    return device


def refusal(wipe: bool) -> Problem:
    """What a revoked device is told on every call."""
    return Problem("device_revoked", wipe=True) if wipe else Problem("device_revoked")


class Report(NamedTuple):
    """What a Sync-Client header says; None where it does not, or cannot be read."""

    client: str
    pending: int | None
    oldest: datetime | None


def seen(
    device_id: uuid.UUID, last_seen_at: datetime | None, header: str | None, pending: int | None = UNKNOWN
) -> None:
    """Note that a device has called, and what its Sync-Client header told.

    Writes at most every SYNC_LAST_SEEN_SECONDS, except that an outbox that became empty, or no longer is, is noted at
    once, where it is known what was noted last (`pending`): a device that empties its outbox and goes silent must not
    look stuck.
    """
    now = timezone.now()
    before = now - timedelta(seconds=settings.SYNC_LAST_SEEN_SECONDS)
    report = parse_client(header) if header else None
    turned = (
        report is not None
        and report.pending is not None
        and pending != UNKNOWN
        and bool(report.pending) != bool(pending)
    )
    if last_seen_at is not None and last_seen_at > before and not turned:
        return
    changes: dict[str, object] = {"last_seen_at": now}
    if report is not None:
        changes |= {"client": report.client, "pending": report.pending, "oldest_pending_at": report.oldest}
    due = Q() if turned else Q(last_seen_at=None) | Q(last_seen_at__lte=before)
    Device.objects.filter(due, id=device_id).update(**changes)


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
