"""Devices at work: tokens that are swapped, what a device may ask for, expiry, and the report of a wipe."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from devices import usage
from devices.authentication import seen, token_hash
from devices.enroll import create_code, enroll, let_in_again, revoke, rotate
from devices.models import Device, Trouble, Usage
from entities.models import Contact
from syncserver.errors import Problem
from tests.integration.sync_support import TestDevice, create, problem, sql

pytestmark = pytest.mark.django_db


@pytest.fixture
def tablet() -> tuple[Device, str]:
    return enroll(create_code(["global"]), "Tablet 12", "android 16", "1.4.0", "203.0.113.1")


def me(token: str) -> int:
    return int(Client().get("/devices/me", headers={"Authorization": f"Bearer {token}"}).status_code)


def swap(token: str) -> Any:
    return Client().post("/devices/me/rotate", headers={"Authorization": f"Bearer {token}"})


def swapped(token: str) -> str:
    answer = swap(token)
    assert answer.status_code == 200, answer.content
    new: str = answer.json()["token"]
    return new


def hours_ago(hours: float) -> Any:
    return timezone.now() - timedelta(hours=hours)


# --- rotation ---


@pytest.mark.protocol("T1")
def test_rotate_keeps_the_old_token_until_the_new_one_is_used_and_a_while_longer(tablet: tuple[Device, str]) -> None:
    old = tablet[1]
    new = swapped(old)
    assert new != old
    assert (me(old), me(old), me(new), me(old)) == (200, 200, 200, 200)
    Device.objects.update(old_token_until=hours_ago(1))
    assert (me(old), me(new)) == (401, 200)


@pytest.mark.protocol("T1")
def test_rotate_whose_answer_was_lost_is_done_again_with_the_old_token(tablet: tuple[Device, str]) -> None:
    old = tablet[1]
    lost, new = swapped(old), swapped(old)
    assert (me(lost), me(old), me(new)) == (401, 200, 200)


@pytest.mark.protocol("T1")
def test_rotate_with_the_old_token_is_refused_once_the_new_one_is_in_use(tablet: tuple[Device, str]) -> None:
    old = tablet[1]
    new = swapped(old)
    assert me(new) == 200
    assert problem(swap(old)) == (401, "unauthorized")
    assert me(new) == 200


def test_rotate_again_with_the_new_token_ends_the_grace_of_the_oldest(tablet: tuple[Device, str]) -> None:
    first = tablet[1]
    second = swapped(first)
    third = swapped(second)
    assert (me(first), me(second), me(third)) == (401, 200, 200)


@pytest.mark.protocol("T1")
def test_new_token_that_died_before_its_first_use_was_noted_is_refused(tablet: tuple[Device, str]) -> None:
    """A rotation that was sent twice arrives the second time between the look-up of the new token and its note."""
    device, old = tablet
    new = token_hash(swapped(old))
    rotate(device, token_hash(old))
    with pytest.raises(Problem, match="unauthorized"):
        seen(new, device.id, None, None)
    assert me(old) == 200


@pytest.mark.parametrize("path", ["/sync/pull", "/sync/outcomes"])
def test_first_use_of_a_new_token_is_noted_by_every_call(path: str) -> None:
    device = TestDevice()
    device.pull()  # so that it was seen a moment ago
    new = rotate(device.device, token_hash(device.headers["authorization"].removeprefix("Bearer ")))
    assert Client().get(path, headers={"Authorization": f"Bearer {new}"}).status_code == 200
    assert Device.objects.get().old_token_until is not None


def test_tokens_are_found_by_their_indexes() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        for column in ("token_hash", "old_token_hash"):
            cursor.execute(f"EXPLAIN SELECT id FROM devices_device WHERE {column} = '\\x00'::bytea")
            assert "Index" in str(cursor.fetchall())


# --- the report of a wipe ---


def report(token: str) -> Any:
    return Client().post("/devices/me/wiped", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.protocol("T2")
def test_wiped_is_the_one_call_that_a_device_told_to_wipe_may_make(tablet: tuple[Device, str]) -> None:
    device, token = tablet
    assert problem(report(token)) == (403, "forbidden")
    revoke(device)
    assert problem(report(token)) == (401, "device_revoked")
    revoke(device, wipe=True)
    assert [report(token).status_code for _ in range(2)] == [204, 204]
    first = Device.objects.get().wiped_at
    report(token)
    assert Device.objects.get().wiped_at == first is not None
    assert me(token) == 401
    assert problem(report("nobody's")) == (401, "unauthorized")


def test_wiped_of_a_device_whose_person_left_needs_the_order_to_wipe(tablet: tuple[Device, str]) -> None:
    Device.objects.update(user=User.objects.create_user("ana", is_active=False))
    assert problem(report(tablet[1])) == (401, "device_revoked")


# --- expiry ---


@pytest.mark.protocol("T3")
@pytest.mark.parametrize("path", ["/sync/pull", "/devices/me", "/sync/outcomes"])
def test_device_that_was_not_used_for_too_long_is_refused_until_it_is_let_in_again(path: str, settings: Any) -> None:
    device = TestDevice()
    before = hours_ago(24 * settings.SYNC_DEVICE_UNUSED_DAYS_MAX + 1)
    Device.objects.update(last_seen_at=before, created_at=before)

    def call() -> Any:
        return Client().get(path, headers=device.headers)

    for _ in range(2):
        assert problem(call()) == (401, "device_revoked")
        assert "changes" not in call().json()
    assert Device.objects.get().last_seen_at == before
    assert let_in_again(device.device)
    assert not let_in_again(device.device)
    assert call().status_code == 200


@pytest.mark.protocol("T3")
def test_push_of_an_expired_device_applies_nothing() -> None:
    device = TestDevice()
    Device.objects.update(created_at=hours_ago(24 * 365))
    assert problem(device.send({"mutations": [create()]})) == (401, "device_revoked")
    assert not Contact.objects.exists()


def test_device_never_expires_where_there_is_no_limit(settings: Any) -> None:
    device = TestDevice()
    settings.SYNC_DEVICE_UNUSED_DAYS_MAX = 0
    Device.objects.update(last_seen_at=hours_ago(24 * 3650), created_at=hours_ago(24 * 3650))
    assert device.ask(None).status_code == 200


def test_let_in_again_does_not_undo_a_revocation(tablet: tuple[Device, str]) -> None:
    Device.objects.update(created_at=hours_ago(24 * 365))
    revoke(tablet[0])
    assert not let_in_again(tablet[0])
    assert me(tablet[1]) == 401


# --- limits ---


def seconds_of(answer: Any) -> int:
    """What a refusal for a limit asks to wait."""
    assert problem(answer) == (429, "rate_limited")
    assert answer.json()["retry_after_seconds"] == int(answer.headers["Retry-After"])
    return int(answer.headers["Retry-After"])


@pytest.mark.protocol("T4")
@pytest.mark.parametrize(("span", "seconds_max"), [("HOUR", 3600), ("DAY", 86_400)])
def test_device_that_has_used_up_its_requests_is_refused(settings: Any, span: str, seconds_max: int) -> None:
    setattr(settings, f"SYNC_DEVICE_REQUESTS_PER_{span}_MAX", 3)
    device, other = TestDevice(), TestDevice()
    assert [device.ask(None).status_code for _ in range(4)] == [200, 200, 200, 429]
    for refused in (device.ask(None), device.send({"mutations": [create()]})):
        assert 0 < seconds_of(refused) <= seconds_max
    assert other.ask(None).status_code == 200
    assert not Contact.objects.exists()
    revoke(device.device, wipe=True)
    assert device.ask(None).json()["wipe"] is True


def test_requests_of_several_processes_add_up(settings: Any, monkeypatch: Any) -> None:
    settings.SYNC_DEVICE_REQUESTS_PER_HOUR_MAX = 4
    device = TestDevice()
    for _ in range(2):  # each with a memory of its own
        monkeypatch.setattr(usage, "requests", usage.Requests())
        Device.objects.update(last_seen_at=None)
        assert [device.ask(None).status_code for _ in range(2)] == [200, 200]
        Device.objects.update(last_seen_at=None)
    assert device.ask(None).status_code == 200  # this process has yet to learn it
    seconds_of(device.ask(None))


def test_requests_are_counted_with_last_seen_and_idle_pulls_write_nothing() -> None:
    device = TestDevice()
    device.pull()
    for _ in range(5):
        device.pull()
    (counted,) = Usage.objects.values_list("kind", "hour", "day")
    assert counted == ("requests", 1, 1)
    Device.objects.update(last_seen_at=hours_ago(1))
    device.pull()
    assert Usage.objects.get().hour == 7


def test_many_requests_within_a_minute_are_counted_before_it_is_over(settings: Any) -> None:
    settings.SYNC_REQUESTS_UNCOUNTED_MAX = 3
    device = TestDevice()
    for _ in range(7):
        device.ask(None)
    assert Usage.objects.get().hour == 7  # 1, which was its first, and twice 3


def test_usage_begins_anew_with_the_hour_and_the_day() -> None:
    device = TestDevice()

    def count() -> list[int]:
        ((found,),) = sql("SELECT devices_count(%s, 'changes', 5, 0, 0)", [device.id])
        return list(found)

    assert [count(), count()] == [[5, 5], [10, 10]]
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    Usage.objects.update(at=hour - timedelta(microseconds=1))
    assert count() == ([5, 15] if hour.hour else [5, 5])
    Usage.objects.update(at=hour.replace(hour=0) - timedelta(microseconds=1))
    assert count() == [5, 5]


@pytest.mark.protocol("T4")
@pytest.mark.parametrize("headers", [{}, {"prefer": "respond-async"}])
def test_push_of_a_device_that_has_used_up_its_changes_applies_nothing(settings: Any, headers: dict[str, str]) -> None:
    settings.SYNC_DEVICE_CHANGES_PER_HOUR_MAX = 3
    sql("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())")
    device = TestDevice()
    device.push(create(), create())
    device.push(create(), create())  # which takes it over the limit, and is applied as a whole
    changes = [create(first_name="late")]
    assert 0 < seconds_of(device.send({"mutations": changes}, **headers)) <= 3600
    assert sql("SELECT count(*) FROM sync_operation") == [(0,)]
    assert not Contact.objects.filter(first_name="late").exists()
    assert Usage.objects.get(kind="changes").hour == 4
    assert device.ask(None).status_code == 200
    Usage.objects.update(at=hours_ago(24))
    assert device.statuses(*changes) == ["applied"]


def test_batch_larger_than_the_limit_gets_through(settings: Any) -> None:
    settings.SYNC_DEVICE_CHANGES_PER_HOUR_MAX = 2
    assert TestDevice().statuses(*(create() for _ in range(5))) == ["applied"] * 5


def test_changes_of_a_push_that_fails_and_is_tried_again_count_once() -> None:
    device = TestDevice()
    device.push(create(), create(first_name="bad", email="no address"))  # the short way, and then the long one
    assert Usage.objects.get(kind="changes").hour == 2


def test_changes_that_are_not_waited_for_count_when_they_come_and_only_then() -> None:
    sql("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())")
    device = TestDevice()
    assert device.send({"mutations": [create()]}, prefer="respond-async").status_code == 202
    device.push(create())  # applies the other one first
    assert Contact.objects.count() == 2
    assert Usage.objects.get(kind="changes").hour == 2


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (lambda: Usage.objects.create(device=Device.objects.get(), kind="changes", at=hours_ago(0), hour=9, day=9), ""),
        (
            lambda: Usage.objects.create(
                device=Device.objects.get(), kind="changes", at=hours_ago(5), hour=9, day=9, reached_at=hours_ago(5)
            ),
            Trouble.LIMITED,
        ),
        (lambda: Device.objects.update(created_at=hours_ago(24 * 365)), Trouble.EXPIRED),
        (lambda: Device.objects.update(created_at=hours_ago(24 * 365), let_in_at=hours_ago(1)), Trouble.SILENT),
    ],
)
def test_trouble_of_a_device(tablet: tuple[Device, str], change: Callable[[], object], trouble: str) -> None:
    change()
    now = timezone.now()
    (found,) = Device.objects.with_trouble(now)
    assert found.trouble == trouble
    assert (found.trouble_since is None) == (not trouble)
    assert Device.objects.state_counts(now)[trouble or "well"] == 1
