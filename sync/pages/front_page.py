"""The admin's front page: what waits for a person, since when, and what the last days were like."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from devices.models import Device, Trouble
from sync.alerts.attention import Attention, Day, Waiting, activity, attention
from sync.models import AlertChannel, Conflict, Rejection
from sync.pages.values import entity_label
from sync.permissions import Somebody, holds, viewable_entities

DAYS = 14  # of the chart
DEVICES_SHOWN_MAX = 8
TITLES = {
    Trouble.STUCK: ("Stuck devices", "calling, but with an outbox that stays"),
    Trouble.SILENT: ("Silent devices", "not heard of any more"),
    Trouble.LIMITED: ("Runaway devices", "came to their limit of requests or changes"),
    Trouble.EXPIRED: ("Expired devices", "not used for so long that they are refused"),
}
SELDOM = {Trouble.LIMITED, Trouble.EXPIRED}  # not worth a place where there is none
COLOURS = {"applied": "#6098fa", "merged": "#1d48c4", "in conflict": "#f59e0b", "rejected": "#dc4a3d"}


@dataclass(frozen=True)
class Task:
    """Something that waits: how many, since when, and where to go."""

    title: str
    count: int
    said: str
    oldest: datetime | None
    link: str
    late: int = 0


def told(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the front page shows, of what the user may see."""
    user, seen = request.user, viewable_entities(request.user)
    now = attention(seen)
    sees_devices = holds(user, "view", Device)
    days = activity(DAYS, seen) if sees_devices else []
    return context | {
        "tasks": list(_tasks(user, now)),
        "entities": _by_entity(user, now),
        "waiting_of": now.waiting_of_devices[:DEVICES_SHOWN_MAX] if _sees_both(user) else [],
        "troubled": now.devices[:DEVICES_SHOWN_MAX] if sees_devices else [],
        "channels": now.channels if holds(user, "view", AlertChannel) else [],
        "days": days,
        "chart": _chart(days) if any(map(_pushed, days)) else "",
        "chart_options": OPTIONS,
        "legend": COLOURS,
    }


def _sees_both(user: Somebody) -> bool:
    return holds(user, "view", Conflict) and holds(user, "view", Rejection) and holds(user, "view", Device)


def _tasks(user: Somebody, now: Attention) -> Iterable[Task]:
    conflicts, rejections = reverse("admin:sync_conflict_changelist"), reverse("admin:sync_rejection_changelist")
    devices = reverse("admin:devices_device_changelist")
    if holds(user, "view", Conflict):
        yield _waiting("Open conflicts", "waiting for a decision", now.conflicts, f"{conflicts}?state=open")
    if holds(user, "view", Rejection):
        yield _waiting("Quarantine", "refused, waiting to be mended", now.quarantine, rejections)
    if holds(user, "view", Device):
        for trouble, (title, said) in TITLES.items():
            if trouble in SELDOM and not now.devices_count[trouble]:
                continue
            since = min((device.since for device in now.devices if device.trouble == trouble), default=None)
            count = now.devices_count[trouble]
            yield Task(title, count, said, since, f"{devices}?trouble={trouble.value}", count)


def _waiting(title: str, said: str, waiting: Sequence[Waiting], link: str) -> Task:
    oldest = min((each.oldest for each in waiting), default=None)
    return Task(title, sum(each.count for each in waiting), said, oldest, link, sum(each.late for each in waiting))


def _by_entity(user: Somebody, now: Attention) -> list[dict[str, Any]]:
    """Open conflicts by entity, those with the most first."""
    if not holds(user, "view", Conflict):
        return []
    address = reverse("admin:sync_conflict_changelist")
    most = max((each.count for each in now.conflicts), default=1)
    return [
        {
            "name": entity_label(each.entity),
            "count": each.count,
            "late": each.late,
            "oldest": each.oldest,
            "share": round(100 * each.count / most),
            "link": f"{address}?state=open&entity={each.entity}",
        }
        for each in sorted(now.conflicts, key=lambda each: -each.count)
    ]


def _pushed(day: Day) -> int:
    return day.applied + day.merged + day.conflict + day.rejected


def _chart(days: Sequence[Day]) -> str:
    """The days' mutations by how they were answered, as the theme's chart takes them."""
    series = zip(COLOURS.items(), ("applied", "merged", "conflict", "rejected"), strict=True)
    return json.dumps(
        {
            "labels": [f"{day.day:%b} {day.day.day}" for day in days],
            "datasets": [
                {"label": name, "data": [getattr(day, kind) for day in days], "backgroundColor": colour}
                for (name, colour), kind in series
            ],
        }
    )


OPTIONS = json.dumps(
    {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "maxBarThickness": 26,
        "borderRadius": 3,
        "interaction": {"mode": "index"},
        "plugins": {"legend": {"display": False}},
        "scales": {
            "x": {
                "stacked": True,
                "grid": {"display": False},
                "border": {"display": False},
                "ticks": {"color": "#8b93a3", "maxRotation": 0},
            },
            "y": {
                "stacked": True,
                "border": {"display": False},
                "ticks": {"precision": 0, "maxTicksLimit": 4, "color": "#8b93a3"},
                "grid": {},
            },
        },
    }
)
