"""Telling people, so that nobody has to look: raise and clear alerts, write messages, send them until accepted."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Max, Q, QuerySet
from django.utils import timezone

from devices.models import Device, Trouble
from sync.alerts import texts
from sync.alerts.attention import waiting
from sync.alerts.channels import Mail, Webhook, attempt, channels
from sync.alerts.sources import sources
from sync.alone import alone
from sync.mismatch import lately as mismatches
from sync.models import Alert, AlertChannel, AlertMessage, Telling
from sync.outbound import PAUSES_MINUTES, Answer
from sync.sql import block

SQL = "alerts/alerts.sql"
SETTLE_MINUTES = 10  # that a device has to stay stuck before anybody is told
FAILING_MINUTES_MAX = 60  # after which the other channels tell that one does not get through
UNUSED_DAYS_MAX = 7  # after which a channel that is not in the settings any more is forgotten
REMINDER_HOURS = 23  # between digests that hold nothing new: a day, less what cron may be early
MESSAGES_PER_RUN_MAX = 100  # to one channel; the rest is for the next run
_TROUBLES = {
    Trouble.STUCK: Alert.Kind.STUCK,
    Trouble.SILENT: Alert.Kind.SILENT,
    Trouble.LIMITED: Alert.Kind.LIMITED,
    Trouble.EXPIRED: Alert.Kind.EXPIRED,
}
_OF_DEVICES = {*_TROUBLES.values(), Alert.Kind.MISMATCH}  # whose subject is the id of a device


@dataclass
class Told:
    """How one channel did in a run. `problem`: its settings are wrong. `error`: of the try that failed."""

    sent: int = 0
    waiting: int = 0  # messages that are to be sent by later runs
    error: str = ""
    problem: str = ""
    disabled: bool = False


@dataclass
class Report:
    """What one run did; with `pretend`, what it would do."""

    raised: int = 0
    cleared: int = 0
    standing: int = 0
    channels: dict[str, Told] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`done`, `misconfigured`, or `partial` where a channel did not get through."""
        if any(told.problem for told in self.channels.values()):
            return "misconfigured"
        return "partial" if any(told.error for told in self.channels.values()) else "done"


def run(*, pretend: bool = False, enable: bool = False, now: datetime | None = None) -> Report:
    """Note what needs attention, then send what is due to every channel. Raises Busy.

    What is noted and what is to be told of it is one transaction, so a killed run leaves both or neither; the next one
    sends what this one did not. `pretend` writes and sends nothing. `enable` tells those again that answered 410.
    """
    now = now or timezone.now()
    configured = channels()
    report = Report(channels={channel.name: Told(problem=channel.problem) for channel in configured})
    with alone("sync_alerts"):
        with transaction.atomic():
            if enable:
                AlertChannel.objects.update(disabled_at=None, failing_since=None, error="")
            _note(report, configured, now)
            for channel in configured:
                report.channels[channel.name].waiting = _messages(channel).count()
            transaction.set_rollback(pretend)
        for channel in () if pretend else configured:
            _send(report.channels[channel.name], channel, now)
    return report


# --- what there is to tell ---


def _note(report: Report, configured: Sequence[Mail | Webhook], now: datetime) -> None:
    working = _working(report, configured, now)
    found = json.dumps(_found(now), default=str)
    report.cleared = len(_rows("clear", found=found, now=now))
    report.raised = sum(new for _, new in _rows("raise", found=found, now=now))
    report.standing = Alert.objects.filter(cleared_at=None).count()
    for channel in working:
        if isinstance(channel, Mail):
            _write_digest(channel, now)
        else:
            _write_events(channel, now)
    webhooks = [channel for channel in working if isinstance(channel, Webhook)]
    opened = _rows("announce") if webhooks else []
    for channel in webhooks if opened else ():
        _write(channel, "conflict.opened", texts.event("conflict.opened", now, texts.of_conflicts(opened)), now)


def _working(report: Report, configured: Sequence[Mail | Webhook], now: datetime) -> list[Mail | Webhook]:
    """The channels that can be told something.

    One that is not in the settings is forgotten only after a while: a single run by hand, without the settings of cron,
    must not make it tell everything anew.
    """
    AlertChannel.objects.filter(checked_at__lt=now - timedelta(days=UNUSED_DAYS_MAX)).delete()
    AlertChannel.objects.bulk_create(
        [AlertChannel(name=channel.name, checked_at=now) for channel in configured],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["checked_at"],
    )
    disabled = set(AlertChannel.objects.exclude(disabled_at=None).values_list("name", flat=True))
    for channel in configured:
        report.channels[channel.name].disabled = channel.name in disabled
        if channel.problem:
            _fail(channel, channel.problem, now)
    return [channel for channel in configured if not channel.problem and channel.name not in disabled]


def _found(now: datetime) -> list[dict[str, Any]]:
    """What needs attention, each as an alert has it."""
    waits = waiting(None, now)
    kinds = {"conflict": Alert.Kind.CONFLICTS, "rejection": Alert.Kind.QUARANTINE}
    late = [
        (kinds[kind], each.entity, each.oldest, each.late)
        for kind, found in waits.items()
        for each in found
        if each.late
    ]
    troubled = Device.objects.with_trouble(now).exclude(trouble="")
    devices = [
        (_TROUBLES[trouble], device, since, pending or 0)
        for device, trouble, since, pending in troubled.values_list("id", "trouble", "trouble_since", "pending")
    ]
    failing = Q(failing_since__lt=now - timedelta(minutes=FAILING_MINUTES_MAX)) | Q(disabled_at__isnull=False)
    failed = (
        AlertChannel.objects.current()
        .filter(failing)
        .annotate(count=Count("alertmessage", Q(alertmessage__next_at__isnull=False)))
    )
    silenced = [(Alert.Kind.CHANNEL, each.name, each.failing_since or now, each.count) for each in failed]
    others = [asdict(finding) for finding in mismatches(now)]
    others += [asdict(finding) for source in sources() for finding in source.found(now)]
    names = ("kind", "subject", "since", "count")
    return [*(dict(zip(names, each, strict=True)) for each in [*late, *devices, *silenced]), *others]


def _untold(channel: Mail | Webhook, now: datetime) -> dict[str, list[Alert]]:
    """Under `raised` and `cleared`, what the channel has to be told."""
    settled_before = now - timedelta(minutes=SETTLE_MINUTES)
    rows = _rows("untold", channel=channel.name, settled_before=settled_before)
    alerts = Alert.objects.in_bulk([id for id, _ in rows])
    return {what: [alerts[id] for id, each in rows if each == what] for what in Telling.What.values}


def _write_events(channel: Webhook, now: datetime) -> None:
    for what, alerts in _untold(channel, now).items():
        kind = f"alert.{what}"
        for first in range(0, len(alerts), texts.LINES_MAX):
            some = alerts[first : first + texts.LINES_MAX]
            message = _write(channel, kind, texts.event(kind, now, texts.of_alerts(some)), now)
            _tell(message, what, some)


def _write_digest(channel: Mail, now: datetime) -> None:
    """A digest where something is new, all is over, or something stands and nothing was sent for a day."""
    untold = _untold(channel, now)
    raised, cleared = untold["raised"], untold["cleared"]
    stands = [id for (id,) in _rows("standing", channel=channel.name)]
    all_over = cleared and not stands
    if not raised and not all_over and not (stands and _reminder_is_due(channel, now)):
        return
    by_id = Alert.objects.in_bulk(stands)
    standing = [by_id[id] for id in stands]
    subjects = [alert.subject for alert in [*raised, *cleared, *standing] if alert.kind in _OF_DEVICES]
    names = {str(id): name for id, name in Device.objects.filter(id__in=subjects).values_list("id", "name")}
    message = _write(channel, "digest", texts.digest(raised, cleared, standing, names), now)
    _tell(message, "raised", raised)
    _tell(message, "cleared", cleared)


def _reminder_is_due(channel: Mail, now: datetime) -> bool:
    sent = AlertMessage.objects.filter(channel_id=channel.name)
    last = sent.aggregate(at=Max("created_at"))["at"]
    return last <= now - timedelta(hours=REMINDER_HOURS) and not sent.filter(next_at__isnull=False).exists()


def _write(channel: Mail | Webhook, kind: str, body: str, now: datetime) -> AlertMessage:
    return AlertMessage.objects.create(channel_id=channel.name, event=kind, body=body, created_at=now, next_at=now)


def _tell(message: AlertMessage, what: str, alerts: Sequence[Alert]) -> None:
    Telling.objects.bulk_create(
        [Telling(alert=alert, channel_id=message.channel_id, what=what, message=message) for alert in alerts]
    )


# --- sending ---


def _messages(channel: Mail | Webhook) -> QuerySet[AlertMessage]:
    """Those that wait to be sent, due or not."""
    return AlertMessage.objects.filter(channel_id=channel.name, next_at__isnull=False)


def _send(told: Told, channel: Mail | Webhook, now: datetime) -> None:
    """Send what is due in the order of writing. After a failure the rest waits: the next would most likely fail too."""
    if not told.problem and not told.disabled:
        for message in _messages(channel).filter(next_at__lte=now).order_by("number")[:MESSAGES_PER_RUN_MAX]:
            answer = attempt(channel, message)
            _settle(message, channel, answer, now)
            told.sent += not answer.error
            if answer.error:
                told.error, told.disabled = answer.error, answer.gone
                break
    told.waiting = _messages(channel).count()


@transaction.atomic
def _settle(message: AlertMessage, channel: Mail | Webhook, answer: Answer, now: datetime) -> None:
    message.tries += 1
    message.error = answer.error
    message.next_at = _next(message, answer, now)
    if answer.error:
        _fail(channel, answer.error, now)
    else:
        message.told_at = timezone.now()
        AlertChannel.objects.filter(name=channel.name).update(failing_since=None, error="")
    message.save(update_fields=["tries", "error", "next_at", "told_at"])
    if answer.error and message.next_at is None:
        # Given up. What still stands is told by another message, since the channel may be there again by then.
        message.telling_set.filter(what=Telling.What.RAISED, alert__cleared_at=None).delete()
    if answer.gone:
        AlertChannel.objects.filter(name=channel.name).update(disabled_at=now)
        _messages(channel).delete()  # with what they told: if the channel is wanted again, it is told what stands then


def _next(message: AlertMessage, answer: Answer, now: datetime) -> datetime | None:
    """When to try again; None: not any more."""
    if not answer.error or message.tries > len(PAUSES_MINUTES):
        return None
    pause = timedelta(minutes=PAUSES_MINUTES[message.tries - 1])
    return now + max(pause, timedelta(seconds=answer.retry_after_seconds))


def _fail(channel: Mail | Webhook, error: str, now: datetime) -> None:
    row = AlertChannel.objects.filter(name=channel.name)
    row.update(error=error)
    row.filter(failing_since=None).update(failing_since=now)


def _rows(name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, name), parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
