"""What alerts say: the JSON of webhooks, which holds ids and counts only, and the e-mail digest."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from sync.alerts.sources import source_of
from sync.models import Alert

LINES_MAX = 100  # of alerts or ids in one message; the counts are of all


def event(kind: str, at: datetime, data: Mapping[str, Any]) -> str:
    """A webhook's body, as Standard Webhooks recommends it."""
    return json.dumps({"type": kind, "timestamp": at.isoformat(), "data": data}, separators=(",", ":"))


def of_alerts(alerts: Sequence[Alert]) -> dict[str, Any]:
    """The data of `alert.raised` and `alert.cleared`."""
    return {
        "alerts": [
            {
                "id": str(alert.id),
                "kind": alert.kind,
                "subject": alert.subject,
                "count": alert.count,
                "since": alert.since.isoformat(),
                "raised_at": alert.raised_at.isoformat(),
                "cleared_at": alert.cleared_at and alert.cleared_at.isoformat(),
                "url": link(alert),
            }
            for alert in alerts
        ]
    }


def of_conflicts(opened: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The data of `conflict.opened`, from ids and entities: how many of which entity, and the first ids."""
    return {
        "count": len(opened),
        "entities": dict(Counter(entity for _, entity in opened)),
        "conflicts": [id for id, _ in opened[:LINES_MAX]],
        "url": _public(reverse("admin:sync_conflict_changelist")),
    }


def digest(
    raised: Sequence[Alert], cleared: Sequence[Alert], standing: Sequence[Alert], names: Mapping[str, str]
) -> str:
    """An e-mail as JSON with `subject`, `text` and `html`. `names` are of devices, by id."""
    counts = {"new": len(raised), "still there": len(standing), "over": len(cleared)}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    facts = {
        "sections": [
            _section("New", raised, names),
            _section("Still there", standing, names),
            _section("Over", cleared, names),
        ],
        "home": _public(reverse("admin:index")),
    }
    body = {
        "subject": f"Syncserver alerts: {', '.join(parts)}",
        "text": render_to_string("sync/alert_digest.txt", facts),
        "html": render_to_string("sync/alert_digest.html", facts),
    }
    return json.dumps(body)


def link(alert: Alert) -> str | None:
    """Where a person can do something about it; None where SYNC_PUBLIC_URL does not say how the server is reached."""
    if (source := source_of(alert.kind)) is not None:
        return _public(source.path(alert))
    match alert.kind:
        case Alert.Kind.CONFLICTS:
            path = reverse("admin:sync_conflict_changelist") + _open(alert.subject)
        case Alert.Kind.QUARANTINE:
            path = reverse("admin:sync_rejection_changelist") + _open(alert.subject)
        case Alert.Kind.MISMATCH:
            path = reverse("admin:sync_mismatch_changelist") + "?" + urlencode({"device": alert.subject})
        case Alert.Kind.CHANNEL:
            path = reverse("admin:index")
        case _:
            path = reverse("admin:devices_device_change", args=[alert.subject])
    return _public(path)


def sentence(alert: Alert, names: Mapping[str, str]) -> str:
    """The alert in words; one line, whatever a device is called."""
    since = f"{timezone.localtime(alert.since):%Y-%m-%d %H:%M %Z}"
    name = " ".join(names.get(alert.subject, alert.subject).split())
    if (source := source_of(alert.kind)) is not None:
        return f"{source.sentence(alert)}, since {since}."
    match alert.kind:
        case Alert.Kind.CONFLICTS:
            text = f"{name}: {_many(alert.count, 'conflict waits', 'conflicts wait')} too long for a decision"
        case Alert.Kind.QUARANTINE:
            text = f"{name}: {_many(alert.count, 'mutation waits', 'mutations wait')} too long in quarantine"
        case Alert.Kind.STUCK:
            text = f"{name} calls, but its outbox stays full ({_many(alert.count, 'mutation', 'mutations')})"
        case Alert.Kind.SILENT:
            text = f"{name} has not called, with {_many(alert.count, 'mutation', 'mutations')} in its outbox"
        case Alert.Kind.MISMATCH:
            text = f"{name} found {_many(alert.count, 'row', 'rows')} that differed from the server's"
        case Alert.Kind.LIMITED:
            text = f"{name} has used up its requests or changes, so that it is refused for a while"
        case Alert.Kind.EXPIRED:
            text = f"{name} was not used for so long that it is refused: let it in again, or revoke it"
        case _:
            text = f"Alerts do not get through by {name}"
    return f"{text}, since {since}."


def _section(title: str, alerts: Sequence[Alert], names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": f"{title} ({len(alerts)})",
        "lines": [(sentence(alert, names), link(alert)) for alert in alerts[:LINES_MAX]],
        "more": max(len(alerts) - LINES_MAX, 0),
    }


def _many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _open(entity: str) -> str:
    return "?" + urlencode({"entity": entity, "state__exact": "open"})


def _public(path: str) -> str | None:
    return settings.SYNC_PUBLIC_URL.rstrip("/") + path if settings.SYNC_PUBLIC_URL else None
