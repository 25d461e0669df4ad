"""What needs a person's attention now: what waits too long, and which devices are in trouble. Read, never written."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils import timezone

from devices.models import Device, Trouble
from sync.models import AlertChannel
from sync.sql import block
from sync.wire import entities as declared

SQL = "alerts/attention.sql"
DEVICES_MAX = 100  # listed at most, the worst first; the counts are of all


@dataclass(frozen=True, slots=True)
class Waiting:
    """Open conflicts, or open rejections, of one entity."""

    entity: str
    count: int
    late: int  # how many of them wait for longer than they should
    oldest: datetime


@dataclass(frozen=True, slots=True)
class WaitingOfDevice:
    """What one device pushed and a person has to decide; `name` is empty for a device that is not known."""

    device: UUID
    name: str
    conflicts: int
    rejections: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class TroubledDevice:
    """A device with its trouble, since when, and how many mutations it last said were in its outbox."""

    device: UUID
    name: str
    trouble: Trouble
    since: datetime  # stuck: its oldest mutation; limited: it came to a limit; else: it was last seen, or enrolled
    pending: int | None


@dataclass(frozen=True, slots=True)
class FailingChannel:
    """A way of telling people that does not get through: since when, and what the last try met."""

    name: str
    since: datetime | None
    error: str
    disabled_at: datetime | None  # it answered that it wants nothing any more: `sync_alerts --enable` tries again


@dataclass(frozen=True, slots=True)
class Attention:
    at: datetime
    conflicts: list[Waiting]
    quarantine: list[Waiting]
    waiting_of_devices: list[WaitingOfDevice]  # at most DEVICES_MAX
    devices: list[TroubledDevice]  # at most DEVICES_MAX
    devices_count: dict[Trouble, int]  # of all devices; each trouble is there
    channels: list[FailingChannel]
    told_at: datetime | None  # the last run of `sync_alerts`; None: nobody is told, so somebody has to look

    @property
    def is_needed(self) -> bool:
        """Whether something waits for too long, a device is in trouble, or people cannot be told."""
        late = any(waiting.late for waiting in [*self.conflicts, *self.quarantine])
        return late or any(self.devices_count.values()) or bool(self.channels)


@dataclass(frozen=True, slots=True)
class Day:
    """One day's mutations by how they were answered, what came into quarantine, and what people decided."""

    day: date
    applied: int
    merged: int
    conflict: int
    rejected: int
    decisions: int
    rejections: int


def attention(entities: Collection[str] | None = None, now: datetime | None = None) -> Attention:
    """What needs attention, in five queries whose cost is that of what is open and of the list of devices.

    `entities`: of conflicts and rejections only those, such as a person may see; None means all. Devices are told of
    whatever the entities: who may not see devices must not be shown them.
    """
    now = now or timezone.now()
    found = waiting(entities, now)
    limits = {"entities": _names(entities), "limit": DEVICES_MAX}
    troubled = Device.objects.with_trouble(now).exclude(trouble="")
    states = Device.objects.state_counts(now)
    channels = list(AlertChannel.objects.current().order_by("name"))
    return Attention(
        at=now,
        conflicts=found["conflict"],
        quarantine=found["rejection"],
        waiting_of_devices=[WaitingOfDevice(*row) for row in _rows("waiting_of_devices", limits)],
        devices=[
            TroubledDevice(*row)
            for row in troubled.order_by("trouble_since", "id").values_list(
                "id", "name", "trouble", "trouble_since", "pending"
            )[:DEVICES_MAX]
        ],
        devices_count={trouble: states[trouble] for trouble in Trouble},
        channels=[
            FailingChannel(each.name, each.failing_since, each.error, each.disabled_at)
            for each in channels
            if each.failing_since or each.disabled_at
        ],
        told_at=max((each.checked_at for each in channels), default=None),
    )


def waiting(entities: Collection[str] | None, now: datetime) -> dict[str, list[Waiting]]:
    """The open conflicts and rejections by entity, under `conflict` and `rejection`. One query."""
    parameters = {
        "entities": _names(entities),
        "declared": sorted(declared()),
        "conflict_before": now - timedelta(hours=settings.SYNC_CONFLICT_AGE_HOURS_MAX),
        "rejection_before": now - timedelta(hours=settings.SYNC_QUARANTINE_AGE_HOURS_MAX),
    }
    found: dict[str, list[Waiting]] = {"conflict": [], "rejection": []}
    for kind, *facts in _rows("waiting", parameters):
        found[kind].append(Waiting(*facts))
    return found


def activity(days: int, entities: Collection[str] | None = None, now: datetime | None = None) -> list[Day]:
    """The last `days` days up to today, the oldest first and none left out. One query, which reads those days' answers.

    Answers are kept for SYNC_RESULT_AGE_DAYS_MAX. They do not name an entity, so `entities` narrows only the decisions
    and the rejections.
    """
    last = timezone.localdate(now)
    parameters = {
        "first": last - timedelta(days=days - 1),
        "last": last,
        "zone": timezone.get_current_timezone_name(),
        "entities": _names(entities),
    }
    return [Day(*row) for row in _rows("activity", parameters)]


def _names(entities: Collection[str] | None) -> list[str] | None:
    return None if entities is None else sorted(entities)


def _rows(name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, name), parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
