"""Granting and revoking scopes."""

from typing import Any

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count

from devices.models import Device, Grant, validate_scope


@transaction.atomic
def grant(scope: str, holder: Device | AbstractBaseUser) -> bool:
    """Grant a scope to a device, or to all devices of a user; False where it was granted already.

    The devices get the scope's rows with their next pulls. Raises ValidationError for what is no scope, and where a
    device would come to have more than SYNC_SCOPES_PER_DEVICE_MAX.
    """
    validate_scope(scope)
    _, created = Grant.objects.get_or_create(scope=scope, **_key(holder))
    check_count(holder)
    return created


def revoke_scope(scope: str, holder: Device | AbstractBaseUser) -> bool:
    """Take a scope back; False where it was not granted. Rows that no other scope holds leave the devices."""
    deleted, _ = Grant.objects.filter(scope=scope, **_key(holder)).delete()
    return deleted > 0


def check_count(holder: Device | AbstractBaseUser, more: int = 0) -> None:
    """Raise ValidationError where a device, or one of the user's, has too many grants, with `more` on the way."""
    if isinstance(holder, Device):
        count = Grant.objects.of(holder).count()
    else:
        own = Device.objects.filter(user_id=holder.pk).annotate(count=Count("grants")).order_by("-count")
        most = own.values_list("count", flat=True).first() or 0
        count = most + Grant.objects.filter(user_id=holder.pk).count()
    count += more
    if count > settings.SYNC_SCOPES_PER_DEVICE_MAX:
        raise ValidationError(
            f"A device can have {settings.SYNC_SCOPES_PER_DEVICE_MAX} scopes at most, its user's included; "
            f"this makes {count}. Grant fewer, wider scopes.",
            code="too_many_scopes",
        )


def _key(holder: Device | AbstractBaseUser) -> dict[str, Any]:
    """Of a grant that a person gave. What a row of the deployment's own grants is taken by changing that row."""
    whose = {"device": holder} if isinstance(holder, Device) else {"user_id": holder.pk}
    return whose | {"source": ""}
