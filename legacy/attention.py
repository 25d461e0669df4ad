"""What needs attention with the pre-existing systems: a source of alerts and metrics (sync/alerts/sources.py)."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Count, Min, Q
from django.urls import reverse
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric

from legacy.models import DeadLetter
from legacy.standing import Standing, State, problem, standings
from legacy.webhooks.subscriptions import Subscription
from sync.alerts.sources import Finding
from sync.models import Alert

LETTERS, LOOPS, STOPPED = "legacy_letters_late", "legacy_loop", "legacy_stopped"
UNREACHABLE, MISCONFIGURED = "legacy_unreachable", "legacy_misconfigured"
UNTOLD = "legacy_subscription_stopped"
KINDS = {
    LETTERS: "dead letters wait for too long",
    LOOPS: "records go round and round between systems",
    STOPPED: "a system's runs stopped for safety",
    UNREACHABLE: "a system is not reached",
    MISCONFIGURED: "a system is set up wrongly",
    UNTOLD: "a subscriber is not told of changes any more",
}
NOTHING = "what LEGACY_SYSTEMS names"  # the subject, where no system can be told of
Kind = DeadLetter.Kind


def found(now: datetime) -> Iterator[Finding]:
    """What needs a person: systems that stand still, records that go nowhere, subscribers that were given up."""
    for one in Subscription.objects.filter(enabled=True, stopped_at__isnull=False):
        yield Finding(UNTOLD, one.name, one.stopped_at or now, 1)
    if problem():
        yield Finding(MISCONFIGURED, NOTHING, now, 0)
        return
    for each in standings(now=now):
        yield from _still(each)
    yield from _letters(now)


def _still(each: Standing) -> Iterator[Finding]:
    """A system whose runs do nothing until somebody looks. One that somebody paused stands still on purpose."""
    if each.last is None or each.state in (State.PAUSED, State.OFF):
        return
    since = each.last.ended_at or each.last.started_at
    state = each.last.state
    if state == State.STOPPED.value:
        yield Finding(STOPPED, each.name, since, each.waits)
    elif state == State.MISCONFIGURED.value:
        yield Finding(MISCONFIGURED, each.name, since, 1)
    if each.counterpart.failures >= settings.LEGACY_FAILURES_MAX:
        yield Finding(UNREACHABLE, each.name, each.good_at or since, each.counterpart.failures)


def _letters(now: datetime) -> Iterator[Finding]:
    """Dead letters that wait for too long, and those that go round and round, by system."""
    late = Q(kind__in=[Kind.FAILED, Kind.UNCLEAR]) & Q(
        first_at__lt=now - timedelta(hours=settings.LEGACY_LETTER_AGE_HOURS_MAX)
    )
    for kind, which in ((LETTERS, late), (LOOPS, Q(kind=Kind.LOOP))):
        counted = DeadLetter.objects.filter(which).values_list("system")
        for system, count, since in counted.annotate(Count("pk"), Min("first_at")).order_by("system"):
            yield Finding(kind, system, since, count)


def sentence(alert: Alert) -> str:
    match alert.kind:
        case "legacy_letters_late":
            return f"{alert.subject}: {_many(alert.count, 'dead letter waits', 'dead letters wait')} for too long"
        case "legacy_loop":
            return f"{alert.subject}: {_many(alert.count, 'record goes', 'records go')} round and round"
        case "legacy_stopped":
            return f"The runs of {alert.subject} stopped for safety, and a person must look"
        case "legacy_unreachable":
            return f"{alert.subject} is not reached ({_many(alert.count, 'run', 'runs')} in a row)"
        case "legacy_subscription_stopped":
            return f"{alert.subject} did not accept what it is told for three days, and is told no more"
    return f"{alert.subject} is set up wrongly, and is not synced"


def path(alert: Alert) -> str:
    if alert.kind in (LETTERS, LOOPS):
        narrowed = {"system": alert.subject} | ({"kind": Kind.LOOP.value} if alert.kind == LOOPS else {})
        return f"{reverse('admin:legacy_deadletter_changelist')}?{urlencode(narrowed)}"
    if alert.kind == UNTOLD:
        return reverse("admin:legacy_subscription_changelist")
    return reverse("admin:legacy_counterpart_changelist")


def metrics(now: datetime) -> Iterable[Metric]:
    """Each system's last runs, its failures in a row, and what waits. Labels are systems and kinds."""
    each_has = ["system"]
    ran = Gauge("syncserver_legacy_run_timestamp_seconds", "When a system's last run began.", labels=each_has)
    good = Gauge("syncserver_legacy_run_good_timestamp_seconds", "When one last went well.", labels=each_has)
    failures = Gauge("syncserver_legacy_failures", "Runs in a row that did not reach a system.", labels=each_has)
    paused = Gauge("syncserver_legacy_paused", "1: a person paused a system.", labels=each_has)
    stopped = Gauge("syncserver_legacy_stopped", "1: its last run stopped for safety.", labels=each_has)
    waiting = Gauge("syncserver_legacy_records_waiting", "Records that were read and not applied.", labels=each_has)
    letters = Gauge("syncserver_legacy_dead_letters", "Dead letters by kind.", labels=["system", "kind"])
    for each in [] if problem() else standings(now=now):
        if each.last:
            ran.add_metric([each.name], each.last.started_at.timestamp())
        if each.good_at:
            good.add_metric([each.name], each.good_at.timestamp())
        failures.add_metric([each.name], each.counterpart.failures)
        paused.add_metric([each.name], each.counterpart.paused_at is not None)
        stopped.add_metric([each.name], each.last is not None and each.last.state == State.STOPPED.value)
        waiting.add_metric([each.name], each.waits)
        for kind in Kind.values:
            letters.add_metric([each.name, kind], each.letters.get(kind, 0))
    return (ran, good, failures, paused, stopped, waiting, letters)


def _many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
