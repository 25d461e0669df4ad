"""What devices found wrong in their files, and repaired: kept for administrators, within limits."""

import datetime as dt
from typing import Annotated

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Min, Sum
from django.utils import timezone

from devices.models import Device
from sync.alerts.sources import Finding
from sync.digest import known
from sync.models import Alert, Mismatch
from syncserver.errors import Problem

WINDOW = dt.timedelta(days=1)
ROWS_MAX = 50  # of one entity that are told by id; the counts are of all
COUNT_MAX = 2**31 - 1  # that the columns hold; of an alert too, which tells of all reports of a day
_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
_Revision = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row that differed: its revision in the device's file and on the server; none where it was not there."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    device: _Revision | None = None
    server: _Revision | None = None


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """How many rows of an entity differed, and how; `rows` are the first of them."""

    changed: _Count = 0  # in their revision or their values
    missing: _Count = 0  # in the device's file
    surplus: _Count = 0
    rows: Annotated[list[Row], msgspec.Meta(max_length=ROWS_MAX)] = []


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """What a check found, by entity, and whether all of it was repaired."""

    entities: dict[str, Found]
    repaired: bool


def keep(device: Device, report: Report) -> None:
    """Keep a report for administrators.

    Raises Problem: `rate_limited` where the device has made SYNC_MISMATCH_REPORTS_MAX within a day, so that a broken
    one cannot fill the table; `invalid_request` for an entity that there is not.
    """
    for name in report.entities:
        known(name, f"entities.{name}")
    now = timezone.now()
    with transaction.atomic():
        Device.objects.select_for_update(no_key=True).get(pk=device.pk)  # one report at a time: they are counted
        lately = Mismatch.objects.filter(device=device.pk, at__gt=now - WINDOW).order_by("at").values("at").distinct()
        if len(times := [each["at"] for each in lately]) >= settings.SYNC_MISMATCH_REPORTS_MAX:
            raise Problem("rate_limited", retry_after_seconds=max(1, int((times[0] + WINDOW - now).total_seconds())))
        Mismatch.objects.bulk_create(
            Mismatch(
                device=device.pk,
                at=now,
                entity=name,
                changed=found.changed,
                missing=found.missing,
                surplus=found.surplus,
                rows=msgspec.to_builtins(found.rows),
                repaired=report.repaired,
            )
            for name, found in report.entities.items()
            if found.changed or found.missing or found.surplus
        )


def lately(now: dt.datetime) -> list[Finding]:
    """The devices that found a mismatch within a day, and are not refused: as alerts have them, with how many rows."""
    found = (
        Mismatch.objects.filter(at__gt=now - WINDOW, at__lte=now, device__in=Device.objects.accepted().values("pk"))
        .values("device")
        .annotate(since=Min("at"), count=Sum("changed") + Sum("missing") + Sum("surplus"))
        .order_by("device")
    )
    return [
        Finding(Alert.Kind.MISMATCH, str(each["device"]), each["since"], min(each["count"], COUNT_MAX))
        for each in found
    ]


def devices_by_entity(now: dt.datetime) -> dict[str, int]:
    """How many devices found a mismatch within a day, by entity."""
    found = Mismatch.objects.filter(at__gt=now - WINDOW, at__lte=now)
    return dict(found.values_list("entity").annotate(Count("device", distinct=True)))
