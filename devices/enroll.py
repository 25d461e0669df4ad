"""A device's life: a code is made, a device enrols with it, swaps its token, and is revoked."""

import hashlib
import math
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from devices.authentication import token_hash
from devices.grants import check_count
from devices.models import Device, EnrollmentCode, EnrollmentFailure, Grant, unused, validate_scope
from syncserver.errors import Problem

# Crockford's base 32: 5 bits a character, and the letters that look like digits are read as those digits.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_GROUPS = 4
CODE_GROUP_LENGTH = 4  # 16 characters: 80 bits
_AS_MEANT = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def create_code(
    scopes: Iterable[str],
    user: AbstractBaseUser | None = None,
    hours: int | None = None,
    created_by: AbstractBaseUser | None = None,
) -> str:
    """Make an enrolment code and return it; only its hash is kept, so nobody can show it again.

    `hours` it is valid: SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX unless given, and never more. Raises ValidationError for a
    bad scope, too many of them, or hours out of range.
    """
    wanted = sorted(set(scopes))
    for scope in wanted:
        validate_scope(scope)
    hours_max = settings.SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX
    valid_hours = hours_max if hours is None else hours
    if not 1 <= valid_hours <= hours_max:
        raise ValidationError(f"A code is valid for 1 to {hours_max} hours, not {valid_hours}.", code="invalid_hours")
    if len(wanted) > settings.SYNC_SCOPES_PER_DEVICE_MAX:
        raise ValidationError(
            f"A device can have {settings.SYNC_SCOPES_PER_DEVICE_MAX} scopes at most, not {len(wanted)}.",
            code="too_many_scopes",
        )
    code = _draw()
    now = timezone.now()
    EnrollmentCode.objects.create(
        code_hash=code_hash(code),
        scopes=wanted,
        user_id=user.pk if user else None,
        created_at=now,
        created_by_id=created_by.pk if created_by else None,
        expires_at=now + timedelta(hours=valid_hours),
    )
    return code


def enroll(code: str, name: str, platform: str, app_version: str, address: str) -> tuple[Device, str]:
    """Make a device from a code that is open, and return it with its token, which is not kept.

    Raises Problem: `enrollment_refused`, the same for a wrong, used and expired code, and `rate_limited` where the
    address has failed too often. Of two simultaneous calls with one code, one succeeds.
    """
    with transaction.atomic():
        now = timezone.now()
        _refuse_busy_address(address, now)
        taken = (
            # The second of two waits here for the first, and then finds the code used.
            EnrollmentCode.objects.select_for_update()
            .filter(code_hash=code_hash(code), used_at=None, expires_at__gt=now)
            .first()
        )
        if taken is not None:
            return _admit(taken, name, platform, app_version, now)
        _note_failure(address, now)
    # Raised after the transaction, which keeps the failure.
    raise Problem("enrollment_refused")


def rotate(device: Device, hashed: bytes) -> str:
    """Give the device a new token, for the one of that hash. Raises Problem: unauthorized.

    That one goes on until the new one is used, and SYNC_TOKEN_GRACE_SECONDS more: an answer that is lost locks nobody
    out. It may rotate again meanwhile, and then the new one that was not used is dead; later it may not any more.
    """
    token = _new_token()
    new = {"token_hash": token_hash(token), "token_at": timezone.now(), "old_token_until": None}
    mine = Device.objects.filter(pk=device.pk)
    if not (
        mine.filter(token_hash=hashed).update(old_token_hash=hashed, **new)
        or mine.filter(old_token_hash=hashed, old_token_until=None).update(**new)
    ):
        raise Problem("unauthorized", "This token was swapped for another one, which is in use.")
    return token


def revoke(device: Device, wipe: bool = False) -> None:
    """Refuse the device from now on; with `wipe`, have it delete its data when it next calls. Can be repeated."""
    now = timezone.now()
    device.revoked_at = device.revoked_at or now
    device.wipe = device.wipe or wipe
    device.save(update_fields=["revoked_at", "wipe"])


def wiped(device: Device) -> None:
    """Note that a device which was told to has deleted its data. Can be repeated."""
    Device.objects.filter(pk=device.pk, wiped_at=None).update(wiped_at=timezone.now())


def let_in_again(device: Device) -> bool:
    """Have a device that was not used for too long work again; False where that is not why it is refused."""
    now = timezone.now()
    if not Device.objects.accepted().filter(unused(now), pk=device.pk).update(let_in_at=now):
        return False
    device.let_in_at = now
    return True


def code_hash(code: str) -> bytes:
    """What is stored in place of a code. Case, hyphens and spaces do not count, and O reads as 0, I and L as 1."""
    meant = code.strip().upper().translate(_AS_MEANT)
    return hashlib.sha256(meant.encode(errors="replace")).digest()


def _admit(taken: EnrollmentCode, name: str, platform: str, app_version: str, now: datetime) -> tuple[Device, str]:
    token = _new_token()
    device = Device.objects.create(
        name=name,
        platform=platform,
        app_version=app_version,
        user_id=taken.user_id,
        token_hash=token_hash(token),
        created_at=now,
    )
    Grant.objects.bulk_create([Grant(device=device, scope=scope) for scope in taken.scopes])
    taken.used_at = now
    taken.device = device
    taken.save(update_fields=["used_at", "device"])
    try:
        check_count(device)
    except ValidationError as error:
        raise Problem("too_many_scopes", str(error.message)) from None  # rolls back: the code stays open
    return device, token


def _refuse_busy_address(address: str, now: datetime) -> None:
    """Raise Problem `rate_limited` where the address has had its failures. Makes other attempts of the address wait."""
    since = now - timedelta(seconds=settings.SYNC_ENROLLMENT_FAILURES_WINDOW_SECONDS)
    with connection.cursor() as cursor:
        # Until the end of the transaction: else a hundred guesses sent at once would all find the count low.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('devices_enroll ' || %s, 0))", [address])
    failures = EnrollmentFailure.objects.filter(address=address, at__gt=since).order_by("-at")
    counted = failures.values_list("at", flat=True)[: settings.SYNC_ENROLLMENT_FAILURES_MAX]
    if len(counted) == settings.SYNC_ENROLLMENT_FAILURES_MAX:
        oldest = list(counted)[-1]
        raise Problem("rate_limited", retry_after_seconds=max(1, math.ceil((oldest - since).total_seconds())))


def _note_failure(address: str, now: datetime) -> None:
    """Keep the failure, and remove those that count no more."""
    EnrollmentFailure.objects.create(address=address, at=now)
    over = now - timedelta(seconds=settings.SYNC_ENROLLMENT_FAILURES_WINDOW_SECONDS)
    # Passing over what another attempt is removing, since two that wait for each other's rows would deadlock.
    old = EnrollmentFailure.objects.select_for_update(skip_locked=True).filter(at__lte=over)
    EnrollmentFailure.objects.filter(pk__in=old.values("pk")).delete()


def _new_token() -> str:
    return f"sd_{secrets.token_urlsafe(32)}"


def _draw() -> str:
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(CODE_GROUP_LENGTH)) for _ in range(CODE_GROUPS))
    return "-".join(groups)
