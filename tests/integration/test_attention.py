"""What needs attention: open conflicts and quarantine by entity and device, devices in trouble, activity by day."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User

from devices.models import Device, Trouble
from sync.alerts.attention import Attention, Waiting, activity, attention
from sync.models import Decision
from tests.integration.attention_support import NOW, ago, conflict, device, rejection
from tests.integration.sync_support import TestDevice, create, sql

pytestmark = pytest.mark.django_db


def now(entities: set[str] | None = None) -> Attention:
    return attention(entities, NOW)


def test_nothing_open_and_no_device_needs_no_attention() -> None:
    found = now()
    assert (found.conflicts, found.quarantine, found.devices, found.is_needed) == ([], [], [], False)
    assert found.devices_count == dict.fromkeys(Trouble, 0)


def test_open_conflicts_are_counted_by_entity_with_the_late_ones_and_the_oldest() -> None:
    for at in ago(hours=1), ago(hours=25), ago(hours=30):
        conflict(at=at)
    conflict("order", ago(hours=2))
    conflict("order", ago(days=9), state="server")
    assert now().conflicts == [Waiting("contact", 3, 2, ago(hours=30)), Waiting("order", 1, 0, ago(hours=2))]


def test_entities_that_there_are_not_are_counted_under_one_name() -> None:
    for name in ("made up", "contact", "contacts"):
        rejection(name, at=ago(hours=1))
    assert [(each.entity, each.count) for each in now().quarantine] == [("contact", 1), ("unknown", 2)]


def test_quarantine_counts_only_what_still_waits() -> None:
    rejection(at=ago(hours=25))
    rejection(at=ago(days=9), state="discarded")
    found = now()
    assert (found.quarantine, found.conflicts) == ([Waiting("contact", 1, 1, ago(hours=25))], [])
    assert found.is_needed


def test_counts_can_be_narrowed_to_the_entities_that_a_person_may_view() -> None:
    tablet = device()
    conflict("contact", device=tablet.pk)
    conflict("employee", device=tablet.pk)
    rejection("employee", device=tablet.pk)
    (of_device,) = now({"contact"}).waiting_of_devices
    assert [each.entity for each in now({"contact"}).conflicts] == ["contact"]
    assert (of_device.device, of_device.name, of_device.conflicts, of_device.rejections) == (tablet.pk, "Tablet", 1, 0)
    assert (now(set()).conflicts, now(set()).quarantine, now(set()).waiting_of_devices) == ([], [], [])


def test_devices_with_the_most_to_decide_come_first() -> None:
    few, many = device("few"), device("many")
    conflict(device=few.pk)
    conflict(device=many.pk)
    rejection(device=many.pk)
    assert [each.name for each in now().waiting_of_devices] == ["many", "few"]


@pytest.mark.parametrize(
    ("told", "trouble"),
    [
        ({"pending": 3, "oldest_pending_at": ago(hours=25)}, "stuck"),
        ({"pending": 3, "oldest_pending_at": ago(hours=23)}, ""),
        ({"pending": 0, "oldest_pending_at": ago(hours=25)}, ""),  # the outbox is empty by now
        ({"pending": None, "oldest_pending_at": ago(hours=25)}, "stuck"),  # it said only since when
        # It went away with a young outbox: that it does not push is no fault while it is not in contact.
        ({"pending": 3, "oldest_pending_at": ago(days=3), "last_seen_at": ago(days=3)}, ""),
        ({"last_seen_at": ago(days=8)}, "silent"),
        ({"last_seen_at": ago(days=8), "pending": 3, "oldest_pending_at": ago(days=20)}, "silent"),
        ({"last_seen_at": None, "created_at": ago(days=8)}, "silent"),  # enrolled, and never heard of again
        ({"last_seen_at": None, "created_at": ago(days=1)}, ""),
        ({"last_seen_at": ago(days=8), "revoked_at": ago(days=7)}, ""),
        ({"pending": 3, "oldest_pending_at": ago(hours=25), "revoked_at": ago(hours=1)}, ""),
    ],
)
def test_a_device_is_in_trouble_when(told: dict[str, Any], trouble: str) -> None:
    device(**told)
    assert Device.objects.with_trouble(NOW).get().trouble == trouble
    assert [each.trouble for each in now().devices] == ([trouble] if trouble else [])
    assert now().is_needed == bool(trouble)


def test_a_device_of_a_person_who_is_not_active_has_no_trouble() -> None:
    left, here = (User.objects.create_user(name, is_active=name == "ben") for name in ("ana", "ben"))
    device("Ana's", user=left, last_seen_at=ago(days=8))
    device("Ben's", user=here, last_seen_at=ago(days=8))
    assert [each.name for each in now().devices] == ["Ben's"]


def test_troubled_devices_tell_since_when_and_those_for_longest_come_first() -> None:
    device("stuck", pending=3, oldest_pending_at=ago(hours=30))
    device("silent", last_seen_at=ago(days=8))
    assert [(each.name, each.since, each.pending) for each in now().devices] == [
        ("silent", ago(days=8), None),
        ("stuck", ago(hours=30), 3),
    ]


def test_attention_takes_the_same_queries_for_much_and_for_nothing(django_assert_num_queries: Any) -> None:
    for number in range(10):
        tablet = device(f"Tablet {number}", last_seen_at=ago(days=8))
        conflict(device=tablet.pk)
        rejection("order", device=tablet.pk)
    with django_assert_num_queries(5):
        now()


def test_activity_has_every_day_up_to_today_with_what_happened_on_it() -> None:
    sql("DELETE FROM sync_result")  # of other tests: it has no model, so nothing empties it
    pushing = TestDevice()
    pushing.push(create(), create(), create(entity="nothing"))
    Decision.objects.create(conflict=conflict(), by="user:ana", state_before="open", state="server")
    before, today = activity(2)
    assert (before.applied, before.rejected, before.decisions) == (0, 0, 0)
    assert (today.applied, today.merged, today.rejected, today.rejections, today.decisions) == (2, 0, 1, 1, 1)
    sql("UPDATE sync_result SET at = at - interval '1 day'")
    before, today = activity(2)
    assert (before.applied, today.applied, (today.day - before.day).days) == (2, 0, 1)


def test_activity_tells_no_decisions_or_rejections_of_entities_that_a_person_may_not_view() -> None:
    Decision.objects.create(conflict=conflict("employee"), by="user:ana", state_before="open", state="server")
    rejection("employee", datetime.now(UTC))
    (today,) = activity(1, {"contact"})
    assert (today.decisions, today.rejections) == (0, 0)
    (today,) = activity(1)
    assert (today.decisions, today.rejections) == (1, 1)
