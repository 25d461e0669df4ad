"""Granting and revoking scopes."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Q, QuerySet

from devices.models import Device, Grant, validate_scope

SCOPES = Count("scope", distinct=True)  # of grants: a person and rows of the deployment may have given the same one
Holder = Device | AbstractBaseUser


def grant(scope: str, holder: Holder) -> bool:
    """Grant a scope to a device, or to all devices of a user; False where it was granted already.

    The devices get the scope's rows with their next pulls. Raises ValidationError for what is no scope, and where a
    device would come to have more than SYNC_SCOPES_PER_DEVICE_MAX.
    """
    return bool(grant_all([scope], holder))


@transaction.atomic
def grant_all(scopes: Iterable[str], holder: Holder) -> list[str]:
    """The same for several scopes, all or none; those that were not granted already."""
    wanted = _valid(scopes)
    key = _key(holder)
    new = sorted(wanted - set(Grant.objects.filter(scope__in=wanted, **key).values_list("scope", flat=True)))
    # One statement, after which the log of grants is brought in step. What another has granted meanwhile stays.
    Grant.objects.bulk_create([Grant(scope=scope, **key) for scope in new], ignore_conflicts=True)
    if new:
        check_count(holder)
    return new


def revoke_scope(scope: str, holder: Holder) -> bool:
    """Take a scope back; False where it was not granted. Rows that no other scope holds leave the devices."""
    return bool(revoke_scopes([scope], holder))


@transaction.atomic
def revoke_scopes(scopes: Iterable[str], holder: Holder) -> list[str]:
    """The same for several scopes, all or none; those that were granted. Raises ValidationError for no scope."""
    found = Grant.objects.filter(scope__in=_valid(scopes), **_key(holder)).order_by("scope")
    # Locked, so that of two that take back the same at once only one says that it did.
    granted = {grant.pk: grant.scope for grant in found.select_for_update(of=("self",))}
    Grant.objects.filter(pk__in=granted).delete()
    return list(granted.values())


def grants_of(holder: Holder) -> list[Grant]:
    """A user's grants, or those of a device and its user: by scope, the device's own first."""
    mine = Grant.objects.of(holder) if isinstance(holder, Device) else Grant.objects.filter(user_id=holder.pk)
    return sorted(mine, key=lambda grant: (grant.scope, grant.user_id is not None, grant.source))


def devices_of(holder: Holder) -> "QuerySet[Device]":
    """The devices that have the holder's grants, and are not refused."""
    mine = Q(pk=holder.pk) if isinstance(holder, Device) else Q(user_id=holder.pk)
    return Device.objects.accepted().filter(mine)


def check_count(holder: Holder, more: int = 0) -> None:
    """Raise ValidationError where a device, or one of the user's, has too many grants, with `more` on the way."""
    if isinstance(holder, Device):
        count = Grant.objects.of(holder).aggregate(count=SCOPES)["count"]
    else:
        own = Device.objects.filter(user_id=holder.pk).annotate(count=Count("grants__scope", distinct=True))
        most = own.order_by("-count").values_list("count", flat=True).first() or 0
        count = most + Grant.objects.filter(user_id=holder.pk).aggregate(count=SCOPES)["count"]
    count += more
    if count > settings.SYNC_SCOPES_PER_DEVICE_MAX:
        raise ValidationError(
            f"A device can have {settings.SYNC_SCOPES_PER_DEVICE_MAX} scopes at most, its user's included; "
            f"this makes {count}. Grant fewer, wider scopes.",
            code="too_many_scopes",
        )


def _valid(scopes: Iterable[str]) -> set[str]:
    wanted = set(scopes)
    for scope in sorted(wanted):
        validate_scope(scope)
    return wanted


def _key(holder: Holder) -> dict[str, Any]:
    """Of a grant that a person gave. What a row of the deployment's own grants is taken by changing that row."""
    whose = {"device": holder} if isinstance(holder, Device) else {"user_id": holder.pk}
    return whose | {"source": ""}
