"""How much a device asks for, and what it is told when that is too much.

Requests are counted in this process's memory and added to those of the other processes together with "last seen", so
that an idle pull writes nothing: with several processes a device may get some more than its limit. Changes are counted
exactly, in the transaction of the push, those too that are only replayed. Both by the hour and the day of UTC. A push
that takes a device over a limit is applied as a whole and the next one is refused: so no batch is too large for ever.
"""

import math
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection

from devices.models import Device, Usage
from syncserver.errors import Problem


class Limits(NamedTuple):
    """Of one kind; 0: none."""

    hour: int
    day: int


def limits_of(kind: str) -> Limits:
    """The deployment's limits of a kind of usage."""
    name = f"SYNC_DEVICE_{kind.upper()}_PER"
    return Limits(getattr(settings, f"{name}_HOUR_MAX"), getattr(settings, f"{name}_DAY_MAX"))


def parameters(kind: str, device: uuid.UUID, count: int) -> dict[str, Any]:
    """Those of a call of devices_count (`usage.sql`)."""
    limits = limits_of(kind)
    return {"device": device, "kind": kind, "count": count, "hour_max": limits.hour, "day_max": limits.day}


def used_up(kind: str, sums: Sequence[int], now: datetime) -> datetime | None:
    """When a device may go on that has asked for so much in this hour and on this day; None: now."""
    limits = limits_of(kind)
    hour, day = sums
    start = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if limits.day and day >= limits.day:
        return start.replace(hour=0) + timedelta(days=1)
    if limits.hour and hour >= limits.hour:
        return start + timedelta(hours=1)
    return None


def refusal(kind: str, until: datetime, now: datetime) -> Problem:
    """What a device is told that has used up its requests or changes."""
    seconds = math.ceil((until - now).total_seconds())
    detail = f"The device has used up its {kind}, so nothing of this request was applied. Retry after {seconds} s."
    return Problem("rate_limited", detail, retry_after_seconds=max(seconds, 1))


class Used(NamedTuple):
    """What a device has asked for of one kind in this hour and on this day, and when it last came to a limit."""

    kind: str
    hour: int
    day: int
    limits: Limits
    reached_at: datetime | None


def used_by(device: Device, now: datetime) -> list[Used]:
    """What a device has asked for, of each kind; requests as of the last minute."""
    start = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    rows = {row.kind: row for row in Usage.objects.filter(device=device.pk)}
    found = []
    for kind in Usage.Kind.values:
        row = rows.get(kind)
        hour = row.hour if row and row.at >= start else 0
        day = row.day if row and row.at >= start.replace(hour=0) else 0
        found.append(Used(kind, hour, day, limits_of(kind), row.reached_at if row else None))
    return found


# --- changes ---


def spend(sums: Sequence[int], count: int, now: datetime) -> None:
    """Raise Problem `rate_limited` where these sums had reached a limit before the last `count` changes."""
    if (until := used_up(Usage.Kind.CHANGES, [each - count for each in sums], now)) is not None:
        raise refusal(Usage.Kind.CHANGES, until, now)


def count_changes(device: uuid.UUID, count: int, now: datetime) -> None:
    """Count changes of a device in the caller's transaction. Raises Problem `rate_limited`, which must roll it back."""
    sql = "SELECT devices_count(%(device)s, %(kind)s, %(count)s, %(hour_max)s, %(day_max)s)"
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters(Usage.Kind.CHANGES, device, count))
        spend(cursor.fetchone()[0], count, now)


# --- requests ---


@dataclass
class _Calls:
    """Of one token in this process."""

    uncounted: int  # not added to those of the other processes yet
    room: int  # so many may be uncounted
    refused_until: datetime | None = None


class Requests:
    """Those of the devices that call this process, by the hash of their token."""

    def __init__(self) -> None:
        self._calls: dict[bytes, _Calls] = {}
        self._hour = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def refused_until(self, hashed: bytes, now: datetime) -> datetime | None:
        """When the device may go on, where this process knows that it has used up its requests."""
        calls = self._calls.get(hashed)
        return calls.refused_until if calls and calls.refused_until and calls.refused_until > now else None

    def count(self, hashed: bytes, now: datetime, due: bool) -> int:
        """Count one; return how many are to be added to those of the other processes now. `due`: in any case."""
        with self._lock:
            self._forget(now)
            calls = self._of(hashed)
            calls.uncounted += 1
            if not due and calls.uncounted < calls.room:
                return 0
            count, calls.uncounted = calls.uncounted, 0
            return count

    def added(self, hashed: bytes, count: int, sums: Sequence[int] | None, now: datetime) -> None:
        """They were added, which made these sums of the hour and the day; None: they could not be added."""
        with self._lock:
            calls = self._of(hashed)
            if sums is None:
                calls.uncounted += count
            else:
                calls.room = _room(sums)
                calls.refused_until = used_up(Usage.Kind.REQUESTS, sums, now)

    def _of(self, hashed: bytes) -> _Calls:
        return self._calls.setdefault(hashed, _Calls(0, _room((0, 0))))

    def _forget(self, now: datetime) -> None:
        """Begin anew with each hour, so that memory is bounded; whoever is refused for the day stays refused."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self._hour:
            self._hour = hour
            self._calls = {hashed: calls for hashed, calls in self._calls.items() if self.refused_until(hashed, now)}


def _room(sums: Sequence[int]) -> int:
    left = [limit - used for limit, used in zip(limits_of(Usage.Kind.REQUESTS), sums, strict=True) if limit]
    return max(min([settings.SYNC_REQUESTS_UNCOUNTED_MAX, *left]), 1)


requests = Requests()
