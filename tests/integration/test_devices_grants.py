"""Grants that people give and take: `manage.py grant`, `revoke`, `grants` and `device`, and the staff API."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from devices.enroll import create_code, enroll
from devices.models import Device, Grant
from tests.integration.staff_support import Staff
from tests.integration.sync_support import TestDevice, contact, problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def ana() -> User:
    return User.objects.create_user("ana")


@pytest.fixture
def tablet(ana: User) -> Device:
    return enroll(create_code(["global"], ana), "Tablet 12", "", "", "")[0]


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


# --- manage.py ---


def test_grant_and_revoke_say_what_they_changed_and_can_be_repeated(tablet: Device) -> None:
    told = run("grant", "store:7", "store:8", "--device", "Tablet 12")
    assert told == "Granted: store:7, store:8; device Tablet 12, which concerns 1 device.\n"
    assert run("grant", "store:7", "--device", str(tablet.pk)) == "store:7 was granted already.\n"
    assert Device.objects.get().scopes == ["global", "store:7", "store:8"]
    assert run("revoke", "store:7", "store:9", "--device", "Tablet 12") == (
        "Revoked: store:7; device Tablet 12, which concerns 1 device.\nstore:9 was not granted.\n"
    )
    assert Device.objects.get().scopes == ["global", "store:8"]


def test_grant_to_a_user_concerns_the_devices_that_are_not_refused(tablet: Device, ana: User) -> None:
    for name in ("Phone", "Lost phone"):
        enroll(create_code([], ana), name, "", "", "")
    Device.objects.filter(name="Lost phone").update(revoked_at=timezone.now())
    told = json.loads(run("grant", "user:ana", "--user", "ana", "--json"))
    assert told == {"changed": ["user:ana"], "unchanged": [], "user": "ana", "devices": 2, "still": []}
    assert Device.objects.get(name="Phone").scopes == ["user:ana"]
    assert json.loads(run("revoke", "user:ana", "--user", "ana", "--json"))["changed"] == ["user:ana"]
    assert not Grant.objects.filter(user=ana).exists()


def test_grants_says_where_each_scope_comes_from(tablet: Device) -> None:
    run("grant", "global", "user:ana", "--user", "ana")
    assert [line.split() for line in run("grants", "--device", "Tablet 12").splitlines()] == [
        ["global", "granted", "to", "the", "device"],
        ["global", "granted", "to", "the", "user"],
        ["user:ana", "granted", "to", "the", "user"],
    ]
    assert json.loads(run("grants", "--user", "ana", "--json"))["grants"][1] == {
        "scope": "user:ana",
        "to": "user",
        "source": "",
    }
    run("revoke", "global", "user:ana", "--user", "ana")
    assert run("grants", "--user", "ana") == "No scope is granted to user ana.\n"


def test_revoke_says_where_a_scope_is_granted_in_another_way(tablet: Device, ana: User) -> None:
    run("grant", "store:7", "--user", "ana")
    Grant.objects.create(user=ana, scope="store:7", source="store_manager.store:7")
    assert run("revoke", "store:7", "--device", "Tablet 12") == (
        "store:7 was not granted.\n"
        "store:7 is still granted to the user.\n"
        "store:7 is still granted to the user by store_manager.store:7.\n"
    )
    assert run("revoke", "store:7", "--user", "ana").splitlines()[1:] == [
        "store:7 is still granted to the user by store_manager.store:7."
    ]
    assert Device.objects.get().scopes == ["global", "store:7"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["store:7", "--user", "nobody"], "There is no user 'nobody'"),
        (["store:7", "--device", "nothing"], "There is no device 'nothing'"),
        (["store:7", "--device", "00000000-0000-0000-0000-000000000001"], "There is no device"),
        (["store:7", "--device", "Phone"], "(?s)Several devices are called 'Phone'.*give the id.*enrolled"),
        (["store:7", "no scope", "--user", "ana"], "A scope is a name"),
        (["a:1", "a:2", "a:3", "--user", "ana"], "3 scopes at most"),
        (["store:7"], "one of the arguments --device --user is required"),
        (["store:7", "--user", "ana", "--device", "Phone"], "not allowed with"),
        (["--user", "ana"], "required: SCOPE"),
    ],
)
def test_grant_tells_what_is_wrong_and_then_grants_nothing(
    tablet: Device, settings: Any, arguments: list[str], told: str
) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 3
    for _ in range(2):
        enroll(create_code([]), "Phone", "", "", "")
    with pytest.raises(CommandError, match=told):
        run("grant", *arguments)
    assert Grant.objects.count() == 1


def test_device_command_shows_revokes_wipes_and_lets_in(tablet: Device) -> None:
    assert run("device", "Tablet 12").endswith("is active.\n")
    with pytest.raises(CommandError, match="has not expired: it is active"):
        run("device", "Tablet 12", "--let-in")
    Device.objects.update(created_at=timezone.now() - timedelta(days=365))
    assert json.loads(run("device", "Tablet 12", "--json"))["state"] == "expired"
    assert run("device", "Tablet 12", "--let-in").endswith("is silent.\n")
    assert run("device", "Tablet 12", "--revoke").endswith("is revoked.\n")
    assert run("device", "Tablet 12", "--wipe").endswith("is told to wipe.\n")


# --- the staff API ---


@pytest.mark.django_db(transaction=True)
def test_staff_gives_and_takes_grants_of_a_device(ana: User) -> None:
    staff, device = Staff(), TestDevice("global")
    row = contact()
    device.revoke("global")
    device.pull()
    assert device.of("contact") == {}
    assert staff.post(f"devices/{device.id}/grants", {"scopes": ["global", "store:7"]}) == {
        "changed": ["global", "store:7"],
        "devices": 1,
    }
    device.pull()
    assert list(device.of("contact")) == [row]
    assert staff.post(f"devices/{device.id}/grants", {"scopes": ["global"]})["changed"] == []
    Device.objects.update(user=ana)
    staff.post("users/ana/grants", {"scopes": ["global"]})
    assert [tuple(each.values()) for each in staff.get(f"devices/{device.id}/grants")["grants"]] == [
        ("global", "device", ""),
        ("global", "user", ""),
        ("store:7", "device", ""),
    ]
    assert staff.post(f"devices/{device.id}/grants/revoke", {"scopes": ["global"]})["changed"] == ["global"]
    device.pull()
    assert list(device.of("contact")) == [row]
    assert staff.post("users/ana/grants/revoke", {"scopes": ["global"]}) == {"changed": ["global"], "devices": 1}
    assert staff.get("users/ana/grants") == {"grants": []}
    device.pull()
    assert device.of("contact") == {}


def test_staff_is_told_what_is_wrong_with_a_grant(settings: Any, ana: User) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    staff = Staff()
    for body, code in (
        ({"scopes": ["no scope"]}, "invalid_request"),
        ({"scopes": ["ok:1", "a\x00b"]}, "invalid_request"),
        ({"scopes": []}, "invalid_request"),
        ({"scope": "global"}, "unknown_field"),
        ({"scopes": ["a:1", "a:2", "a:3"]}, "too_many_scopes"),
    ):
        assert problem(staff.send("users/ana/grants", body)) == (400, code), body
    assert not Grant.objects.exists()
    for path in ("users/nobody/grants", "users/%00/grants"):
        assert problem(staff.ask(path)) == (404, "not_found")


def test_grants_and_devices_need_the_permissions_that_the_admin_asks_for(ana: User) -> None:
    device = TestDevice()
    sees = "devices.view_device"
    path, body = f"devices/{device.id}/grants", {"scopes": ["global"]}
    nobody, looks = Staff("devices.view_grant"), Staff(sees)
    assert problem(nobody.ask(path)) == (404, "not_found")
    assert problem(nobody.ask("users/ana/grants")) == (404, "not_found")
    for staff, status in ((looks, 403), (Staff(sees, "devices.view_grant"), 200)):
        assert staff.ask(path).status_code == status
    for codename, status in (("view_grant", 403), ("add_grant", 200)):
        assert Staff(sees, f"devices.{codename}").send(path, body).status_code == status
    for codename, status in (("add_grant", 403), ("delete_grant", 200)):
        assert Staff(sees, f"devices.{codename}").send(f"{path}/revoke", body).status_code == status
    assert problem(looks.send(f"devices/{device.id}/let-in", {})) == (403, "forbidden")


def test_staff_sees_how_a_device_is_and_lets_it_in_again() -> None:
    staff, device = Staff(), TestDevice()
    Device.objects.update(created_at=timezone.now() - timedelta(days=365))
    assert [each["state"] for each in staff.get("devices", trouble="expired")["results"]] == ["expired"]
    assert staff.send(f"devices/{device.id}/let-in", None).json()["let_in_at"] is not None
    assert device.ask(None).status_code == 200
    assert staff.get(f"devices/{device.id}")["state"] == "active"
    assert staff.post(f"devices/{device.id}/revoke", {"wipe": True})["state"] == "told_to_wipe"
