"""`/metrics` for Prometheus: read from the database at every scrape, so that any worker answers for all of them.

Labels are entities, states and channels; never a row's values or a device's name.
"""

from collections.abc import Iterator
from datetime import datetime

from django.db import connection
from django.db.models import Count, Max, Min, Q, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from devices.models import Device
from sync.alerts.attention import Waiting, waiting
from sync.alerts.sources import sources
from sync.mismatch import devices_by_entity
from sync.models import Alert, AlertChannel, Operation
from sync.sql import block
from sync.wire import entities

OPENMETRICS = "application/openmetrics-text"


def scrape(accept: str) -> tuple[bytes, str]:
    """All metrics in the text format that the Accept header asks for, and its media type. Raises database errors."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Database())
    # Only whether it asks for OpenMetrics: the library fails on a version that is none.
    encoder, media_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encoder(registry), media_type


class _Database(Collector):
    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        found = waiting(None, now)
        yield from _waiting("syncserver_conflicts", "conflicts that wait for a person", found["conflict"])
        yield from _waiting(
            "syncserver_quarantine", "mutations in quarantine that wait for a person", found["rejection"]
        )
        yield from _devices(now)
        yield from _operations()
        yield from _mismatches(now)
        yield from _alerts()
        yield from _channels()
        yield from _database()
        for source in sources():
            yield from source.metrics(now)


def _waiting(name: str, what: str, found: list[Waiting]) -> Iterator[Metric]:
    """An entity with nothing open is there with 0: a series that ends looks like one that was never watched."""
    by_entity = {waiting.entity: waiting for waiting in found}
    opened = Gauge(f"{name}_open", f"Open {what}.", labels=["entity"])
    late = Gauge(f"{name}_late", f"Open {what} for longer than they should.", labels=["entity"])
    oldest = Gauge(f"{name}_oldest_timestamp_seconds", f"When the oldest of the {what} came.", labels=["entity"])
    for entity in sorted({*entities(), *by_entity}):
        waits = by_entity.get(entity)
        opened.add_metric([entity], waits.count if waits else 0)
        late.add_metric([entity], waits.late if waits else 0)
        if waits:
            oldest.add_metric([entity], waits.oldest.timestamp())
    yield from (opened, late, oldest)


def _operations() -> Iterator[Metric]:
    found = Operation.objects.filter(ended_at=None).aggregate(count=Count("number"), oldest=Min("received_at"))
    name, what = "syncserver_pushes_waiting", "Pushes that their devices do not wait for, not applied yet."
    yield Gauge(name, what, value=found["count"])
    if found["oldest"]:
        oldest = f"{name}_oldest_timestamp_seconds"
        yield Gauge(oldest, "When the oldest of them came.", value=found["oldest"].timestamp())


def _devices(now: datetime) -> Iterator[Metric]:
    devices = Gauge("syncserver_devices", "Devices by how they are; each is in one state.", labels=["state"])
    for state, count in Device.objects.state_counts(now).items():
        devices.add_metric([state], count)
    pending = Device.objects.accepted().aggregate(pending=Sum("pending"))["pending"]
    yield devices
    yield Gauge(
        "syncserver_device_mutations_pending",
        "Mutations in the outboxes of all devices, as they last said.",
        value=pending or 0,
    )


def _mismatches(now: datetime) -> Iterator[Metric]:
    found = devices_by_entity(now)
    what = "Devices that found rows within a day that differed from the server's."
    devices = Gauge("syncserver_replica_mismatch_devices", what, labels=["entity"])
    for entity in sorted({*entities(), *found}):
        devices.add_metric([entity], found.get(entity, 0))
    yield devices


def _alerts() -> Iterator[Metric]:
    standing = dict(Alert.objects.filter(cleared_at=None).values_list("kind").annotate(Count("id")))
    alerts = Gauge("syncserver_alerts_active", "Alerts that stand, by kind.", labels=["kind"])
    for kind in [*Alert.Kind.values, *(kind for source in sources() for kind in source.KINDS)]:
        alerts.add_metric([kind], standing.get(kind, 0))
    yield alerts


def _channels() -> Iterator[Metric]:
    waits = Count("alertmessage", Q(alertmessage__next_at__isnull=False))
    failing = Gauge(
        "syncserver_alert_channel_failing", "1: alerts do not get through by the channel.", labels=["channel"]
    )
    waiting = Gauge(
        "syncserver_alert_messages_waiting", "Messages that the channel has not accepted.", labels=["channel"]
    )
    for channel in AlertChannel.objects.current().order_by("name").annotate(waits=waits):
        failing.add_metric([channel.name], bool(channel.failing_since or channel.disabled_at))
        waiting.add_metric([channel.name], channel.waits)
    yield from (failing, waiting)
    if ran_at := AlertChannel.objects.aggregate(at=Max("checked_at"))["at"]:
        yield Gauge("syncserver_alerts_run_timestamp_seconds", "When sync_alerts ran last.", value=ran_at.timestamp())


def _database() -> Iterator[Metric]:
    with connection.cursor() as cursor:
        cursor.execute(block("maintain.sql", "oldest_writer"))
        seconds, partitions = cursor.fetchone()
        cursor.execute(block("alerts/attention.sql", "answered_last_hour"))
        answered = dict(cursor.fetchall())
    yield Gauge(
        "syncserver_oldest_writer_age_seconds",
        "Since when the oldest transaction is open that has written.",
        value=seconds,
    )
    yield Gauge("syncserver_history_partitions_ahead", "Months for which the history has room.", value=partitions)
    mutations = Gauge(
        "syncserver_mutations_last_hour",
        "Mutations that were pushed within the last hour, by answer.",
        labels=["status"],
    )
    for status in ("applied", "merged", "conflict", "rejected"):
        mutations.add_metric([status], answered.get(status, 0))
    yield mutations
