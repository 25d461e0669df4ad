"""What devices report of their files: within limits, and shown to who may see it. D5 of `docs/protocol.md`."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from devices.enroll import revoke
from sync.alerts.run import run
from sync.mismatch import COUNT_MAX
from sync.models import Alert, Mismatch
from sync.prune import prune
from tests.integration.pages_support import EVIL, clerk, shown
from tests.integration.sync_support import TestDevice, contact, problem, sql

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/sync/mismatch/"


def report(device: TestDevice, body: Any) -> Any:
    return Client().post("/sync/digest/mismatch", body, "application/json", headers=device.headers)


def found(row: str | None = None, **more: Any) -> dict[str, Any]:
    rows = [{"id": row or str(uuid.uuid4()), "device": 2, "server": None}]
    return {"entities": {"contact": {"surplus": 1, "changed": 3, "rows": rows}}, "repaired": True} | more


@pytest.mark.protocol("D5")
def test_mismatch_is_kept_by_entity() -> None:
    device, row = TestDevice(), contact()
    body = found(row)
    body["entities"] |= {"order": {"missing": 2}, "product": {}}
    answer = report(device, body)
    assert (answer.status_code, answer.content) == (204, b"")
    kept, other = Mismatch.objects.order_by("entity")
    assert (kept.device, kept.entity) == (device.device.pk, "contact")
    assert (kept.changed, kept.missing, kept.surplus, kept.repaired) == (3, 0, 1, True)
    assert kept.rows == [{"id": row, "device": 2, "server": None}]
    assert (other.entity, other.missing, other.rows, other.at) == ("order", 2, [], kept.at)


@pytest.mark.protocol("D5")
def test_mismatch_of_a_device_that_reports_too_often_returns_429() -> None:
    device, other = TestDevice(), TestDevice()
    most = settings.SYNC_MISMATCH_REPORTS_MAX
    for _ in range(most):
        assert report(device, found()).status_code == 204
    answer = report(device, found())
    assert problem(answer) == (429, "rate_limited")
    assert 0 < int(answer.headers["Retry-After"]) <= 24 * 3600
    assert Mismatch.objects.count() == most
    assert report(other, found()).status_code == 204
    Mismatch.objects.update(at=timezone.now() - timedelta(days=1, seconds=1))
    assert report(device, found()).status_code == 204


ROW = {"id": "0198a2f0-1c1e-7d0a-8f7e-3b1f6f2c0001"}


@pytest.mark.protocol("D5")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", (400, "invalid_json")),
        ("[]", (400, "invalid_request")),
        ({}, (400, "invalid_request")),
        ({"entities": {}, "repaired": True, "more": 1}, (400, "unknown_field")),
        ({"entities": {"nothing": {}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"a\0": {}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"changed": -1}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"changed": 2**31}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"rows": [{"id": "x"}]}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"rows": [ROW | {"device": 0}]}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"rows": [ROW | {"server": 2**63}]}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"rows": [ROW] * 51}}, "repaired": True}, (400, "invalid_request")),
        ({"entities": {"contact": {"rows": [ROW] * 2_000}}, "repaired": True}, (413, "body_too_large")),
        ({"entities": {"contact": {}}, "repaired": "yes"}, (400, "invalid_request")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_mismatch_refuses_what_it_cannot_read(body: Any, expected: tuple[int, str]) -> None:
    assert problem(report(TestDevice(), body)) == expected
    assert not Mismatch.objects.exists()


def test_mismatch_raises_an_alert_for_a_day() -> None:
    device = TestDevice()
    report(device, found())
    now = timezone.now()
    assert run(now=now).raised == 1
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject, alert.count) == ("replica_mismatch", device.id, 4)
    assert run(now=now + timedelta(hours=25)).cleared == 1
    report(device, found())
    assert run().raised == 1
    revoke(device.device, wipe=False)
    assert run().cleared == 1


@pytest.mark.protocol("D5")
def test_mismatch_with_the_largest_counts_that_are_taken_keeps_no_alert_back() -> None:
    device, other = TestDevice(), TestDevice()
    most = dict.fromkeys(("changed", "missing", "surplus"), COUNT_MAX)
    for _ in range(2):
        assert report(device, {"entities": {"contact": most, "order": most}, "repaired": True}).status_code == 204
    report(other, found())
    assert run().raised == 2
    assert dict(Alert.objects.values_list("subject", "count")) == {device.id: COUNT_MAX, other.id: 4}


def test_prune_forgets_old_mismatches() -> None:
    report(TestDevice(), found())
    assert prune()["mismatches"] == 0
    sql("UPDATE sync_mismatch SET at = now() - interval '91 days'")
    assert prune()["mismatches"] == 1


def test_mismatches_are_listed_narrowed_down_and_shown_with_their_rows(admin_client: Client) -> None:
    device, row = TestDevice(), contact(EVIL)
    body = found(row, repaired=False)
    body["entities"]["contact"]["rows"].append({"id": str(uuid.uuid4()), "device": None, "server": 8})
    report(device, body)
    address = f"{LIST}{Mismatch.objects.get().pk}/change/"
    listed = shown(admin_client, LIST)
    for fact in ("Contact", "a device", "not repaired", f"/admin/devices/device/{device.id}/change/"):
        assert fact in listed
    for query, count in (
        ("entity=contact", 1),
        ("entity=order", 0),
        ("repaired=no", 1),
        ("repaired=yes", 0),
        (f"device={device.id}", 1),
        (f"device={uuid.uuid4()}", 0),
        ("age=1", 1),
        ("age=30%2B", 0),
        ("repaired=nonsense", 0),
        (f"q={device.id}", 1),
    ):
        assert (address in shown(admin_client, f"{LIST}?{query}")) == bool(count), query
    page = shown(admin_client, address)
    assert f"/admin/entities/contact/{row}/history/" in page
    for fact in (row, "not known", ">2</td>", ">8</td>", "none"):
        assert fact in page


def test_mismatches_are_shown_only_to_who_may_see_the_rows() -> None:
    report(TestDevice(), found())
    address = f"{LIST}{Mismatch.objects.get().pk}/change/"
    nobody = clerk()
    assert nobody.get(LIST).status_code == 403
    some = clerk("sync.view_mismatch", "entities.view_product")
    assert address not in shown(some, LIST)
    assert some.get(address).status_code == 302
    both = clerk("sync.view_mismatch", "entities.view_contact")
    assert address in shown(both, LIST)
    assert shown(both, address)
    assert both.post(address, {"changed": 9}).status_code == 403
