"""Devices in the admin and on the command line, as the people who run the server use them."""

import json
import re
from datetime import timedelta
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from devices.enroll import create_code, enroll, revoke, rotate, wiped
from devices.models import Device, EnrollmentCode, Grant, Usage
from sync.sql import blocks
from tests.integration.sync_support import TestDevice, create

pytestmark = pytest.mark.django_db

CODE = re.compile(r"[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}")


@pytest.fixture
def tablet() -> Device:
    return enroll(create_code(["global", "store:7"]), "Tablet 12", "android 16", "1.4.0", "")[0]


def page(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return unescape(response.content.decode())


def act(client: Client, action: str, device: Device) -> Any:
    data = {"action": action, "_selected_action": [str(device.pk)]}
    return client.post("/admin/devices/device/", data, follow=True)


def test_device_list_shows_scopes_and_state(admin_client: Client, tablet: Device) -> None:
    ana = User.objects.create_user("ana")
    Device.objects.update(user=ana, pending=12)
    Grant.objects.create(user=ana, scope="user:ana")
    shown = page(admin_client, "/admin/devices/device/")
    for fact in ("Tablet 12", "global, store:7, user:ana", "ana", "active", "12"):
        assert fact in shown


def test_device_list_takes_the_same_queries_for_many_devices(
    admin_client: Client, tablet: Device, django_assert_max_num_queries: Any
) -> None:
    ana = User.objects.create_user("ana")
    for number in range(20):
        enroll(create_code([f"store:{number}"], ana), f"Tablet {number}", "", "", "")
    with django_assert_max_num_queries(14):
        page(admin_client, "/admin/devices/device/")


def test_device_is_found_by_its_user(admin_client: Client, tablet: Device) -> None:
    assert "Tablet 12" in page(admin_client, "/admin/devices/device/?q=tablet")
    assert "Tablet 12" not in page(admin_client, "/admin/devices/device/?q=nobody")
    assert "Tablet 12" in page(admin_client, f"/admin/devices/device/?q={tablet.id}")


def stuck(device: Device) -> None:
    now = timezone.now()
    Device.objects.filter(pk=device.pk).update(
        last_seen_at=now - timedelta(minutes=5), pending=14, oldest_pending_at=now - timedelta(days=3)
    )


def test_list_marks_and_finds_the_devices_that_are_stuck(admin_client: Client, tablet: Device) -> None:
    enroll(create_code(["global"]), "Phone 7", "", "", "")
    stuck(tablet)
    shown = " ".join(page(admin_client, "/admin/devices/device/?trouble=stuck").split())
    for fact in ("Tablet 12", "stuck", "14 waiting, oldest 3 days ago", "5 minutes ago"):
        assert fact in shown
    assert "Phone 7" not in shown
    assert "Tablet 12" not in page(admin_client, "/admin/devices/device/?trouble=none")
    assert page(admin_client, "/admin/devices/device/?trouble=nonsense")


def test_device_page_tells_what_waits_and_what_was_refused(admin_client: Client) -> None:
    device = TestDevice()
    device.push(create(first_name="good"), *(create(first_name="bad", email="no address") for _ in range(3)))
    stuck(device.device)
    shown = " ".join(page(admin_client, f"/admin/devices/device/{device.id}/change/").split())
    for fact in ("This device is stuck.", "its oldest was 2 days old", "Show the 3: invalid value, Contact"):
        assert fact in shown
    for fact in ("1 applied", "3 refused", "4 changes in 30 days", f"device={device.id}&cause=invalid_value"):
        assert fact in shown


def test_device_page_leaves_out_a_count_that_takes_too_long(
    admin_client: Client, tablet: Device, monkeypatch: Any
) -> None:
    slow = "SELECT pg_sleep(3), %(device)s, %(last)s, %(days)s, %(zone)s"
    monkeypatch.setitem(blocks("pages/device.sql"), "pushed_by_device", slow)
    monkeypatch.setitem(blocks("pages/device.sql"), "count_seconds", "SET LOCAL statement_timeout = 10 -- %(seconds)s")
    assert "too many answers" in page(admin_client, f"/admin/devices/device/{tablet.pk}/change/")


def test_device_page_shows_only_what_the_person_may_see(client: Client) -> None:
    device = TestDevice()
    device.push(create(first_name="bad", email="no address"))
    viewer = User.objects.create_user("viewer", is_staff=True)
    for codename in ("view_device", "view_rejection"):
        viewer.user_permissions.add(Permission.objects.get(codename=codename))
    client.force_login(viewer)
    shown = page(client, f"/admin/devices/device/{device.id}/change/")
    assert "Open conflicts" not in shown
    assert "invalid value" not in shown
    assert page(client, "/admin/devices/device/")


@pytest.mark.parametrize("key", ["nonsense", "00000000-0000-0000-0000-000000000001"])
def test_page_of_a_device_that_is_not_there_leads_back(key: str, admin_client: Client) -> None:
    assert admin_client.get(f"/admin/devices/device/{key}/change/").status_code == 302


@pytest.mark.parametrize(("action", "wipe"), [("revoke", False), ("revoke_and_wipe", True)])
def test_revoke_actions(admin_client: Client, tablet: Device, action: str, wipe: bool) -> None:
    shown = act(admin_client, action, tablet).content.decode()
    tablet.refresh_from_db()
    assert (tablet.is_active, tablet.wipe) == (False, wipe)
    assert "Tablet 12" in shown
    assert "revoked" in shown


def test_expired_device_is_found_shown_and_let_in_again(admin_client: Client, tablet: Device) -> None:
    Device.objects.update(created_at=timezone.now() - timedelta(days=365))
    address = f"/admin/devices/device/{tablet.pk}/change/"
    assert "Tablet 12" in page(admin_client, "/admin/devices/device/?trouble=expired")
    shown = page(admin_client, address)
    assert "This device has expired." in shown
    assert "after 180 days it is refused" in shown
    assert "Expired devices" in page(admin_client, "/admin/")
    assert "Let in again: Tablet 12" in unescape(act(admin_client, "let_in", tablet).content.decode())
    assert "Not expired: Tablet 12" in unescape(act(admin_client, "let_in", tablet).content.decode())
    assert "Expired devices" not in page(admin_client, "/admin/")


def test_device_page_tells_what_it_may_see_and_why_and_what_it_asked_for(admin_client: Client, tablet: Device) -> None:
    ana = User.objects.create_user("ana")
    Device.objects.update(user=ana)
    Grant.objects.create(user=ana, scope="user:ana")
    now = timezone.now()
    Usage.objects.create(device=tablet, kind="requests", at=now, hour=3, day=90_000)
    Usage.objects.create(device=tablet, kind="changes", at=now, hour=200_000, day=200_000, reached_at=now)
    shown = " ".join(re.sub(r"<[^>]+>", " ", page(admin_client, f"/admin/devices/device/{tablet.pk}/change/")).split())
    for fact in ("store:7 this device", "user:ana its user, ana", "This device is over its limits."):
        assert fact in shown
    assert (
        "Requests this hour 3 of 20,000 Requests today 90,000 of 100,000 Changes this hour 200,000 of 200,000" in shown
    )
    for fact in ("Changes today 200,000 of 500,000", "It came to a limit of changes just now ."):
        assert fact in shown
    rotate(tablet, bytes(tablet.token_hash))
    assert "not used yet: the one before goes on" in page(admin_client, f"/admin/devices/device/{tablet.pk}/change/")
    assert "over its limits" in page(admin_client, "/admin/devices/device/?trouble=limited")


def test_list_and_page_tell_where_a_wipe_stands(admin_client: Client, tablet: Device) -> None:
    revoke(tablet, wipe=True)
    address = f"/admin/devices/device/{tablet.pk}/change/"
    assert "revoked, told to wipe" in page(admin_client, "/admin/devices/device/")
    assert "told to, not reported" in page(admin_client, address)
    wiped(tablet)
    assert "revoked, wiped just now" in page(admin_client, "/admin/devices/device/")
    assert "told to, not reported" not in page(admin_client, address)


def test_revoke_needs_the_permission_to_change(client: Client, tablet: Device) -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    client.force_login(viewer)
    assert act(client, "revoke", tablet).status_code == 403
    tablet.refresh_from_db()
    assert tablet.is_active


def test_device_cannot_be_deleted_or_added_by_hand(admin_client: Client, tablet: Device) -> None:
    assert admin_client.post(f"/admin/devices/device/{tablet.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get("/admin/devices/device/add/").status_code == 403
    assert "delete_selected" not in page(admin_client, "/admin/devices/device/")


def grants_form(device: Device, *added: str) -> dict[str, str]:
    """The device's form as the browser sends it: its grants unchanged, and new ones."""
    grants = list(device.grants.all())
    data = {"name": device.name, "user": "", "grants-TOTAL_FORMS": str(len(grants) + len(added))}
    data["grants-INITIAL_FORMS"] = str(len(grants))
    for number, grant in enumerate(grants):
        data |= {f"grants-{number}-id": str(grant.pk), f"grants-{number}-device": str(device.pk)}
        data[f"grants-{number}-scope"] = grant.scope
    for number, scope in enumerate(added, len(grants)):
        data |= {f"grants-{number}-device": str(device.pk), f"grants-{number}-scope": scope}
    return data


def test_scope_is_granted_in_the_device_page(admin_client: Client, tablet: Device) -> None:
    address = f"/admin/devices/device/{tablet.pk}/change/"
    assert "store:7" in page(admin_client, address)
    assert admin_client.post(address, grants_form(tablet, "store:9")).status_code == 302
    assert Device.objects.get().scopes == ["global", "store:7", "store:9"]


def test_scope_is_taken_back_in_the_device_page(admin_client: Client, tablet: Device, settings: Any) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    data = grants_form(tablet, "store:9") | {"grants-0-DELETE": "on"}
    assert admin_client.post(f"/admin/devices/device/{tablet.pk}/change/", data).status_code == 302
    assert Device.objects.get().scopes == ["store:7", "store:9"]


@pytest.mark.parametrize(("scope", "told"), [("no scope", "A scope is a name"), ("store:9", "2 scopes at most")])
def test_bad_grant_is_told_in_the_device_page(
    admin_client: Client, tablet: Device, settings: Any, scope: str, told: str
) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    response = admin_client.post(f"/admin/devices/device/{tablet.pk}/change/", grants_form(tablet, scope))
    assert response.status_code == 200
    assert told in response.content.decode()
    assert Grant.objects.count() == 2


def test_user_is_granted_a_scope(admin_client: Client) -> None:
    ana = User.objects.create_user("ana")
    data = {"user": str(ana.pk), "device": "", "scope": "user:ana"}
    assert admin_client.post("/admin/devices/grant/add/", data).status_code == 302
    assert Grant.objects.get().user == ana
    assert "exactly one" in admin_client.post("/admin/devices/grant/add/", {"scope": "store:7"}).content.decode()


def test_new_code_is_shown_exactly_once(admin_client: Client, client: Client) -> None:
    data = {"scope_lines": "global\nstore:7\n", "hours": "2", "user": ""}
    response = admin_client.post("/admin/devices/enrollmentcode/add/", data, follow=True)
    (code,) = CODE.findall(response.content.decode())
    assert not CODE.search(page(admin_client, "/admin/devices/enrollmentcode/"))
    made = EnrollmentCode.objects.get()
    assert not CODE.search(page(admin_client, f"/admin/devices/enrollmentcode/{made.pk}/change/"))
    assert not CODE.search(page(admin_client, f"/admin/devices/enrollmentcode/{made.pk}/history/"))
    assert (made.scopes, str(made.created_by)) == (["global", "store:7"], "admin")
    assert enroll(code, "Tablet 12", "", "", "")[0].scopes == ["global", "store:7"]


def test_code_list_shows_the_state(admin_client: Client) -> None:
    enroll(create_code(["global"]), "Tablet 12", "", "", "")
    create_code(["global"])
    create_code(["global"])
    EnrollmentCode.objects.filter(pk=EnrollmentCode.objects.latest("pk").pk).update(expires_at="2020-01-01T00:00:00Z")
    shown = page(admin_client, "/admin/devices/enrollmentcode/")
    states = re.findall(r'class="field-state[^>]*>\s*(\w+)\s*<', shown)
    assert sorted(states) == ["expired", "open", "used"]


def test_bad_scope_of_a_code_is_told(admin_client: Client) -> None:
    data = {"scope_lines": "no scope", "hours": "2"}
    shown = admin_client.post("/admin/devices/enrollmentcode/add/", data).content.decode()
    assert "A scope is a name" in shown
    assert not EnrollmentCode.objects.exists()


def test_user_with_devices_can_be_deleted_and_the_device_stays(admin_client: Client) -> None:
    ana = User.objects.create_user("ana")
    device, _ = enroll(create_code(["global"], ana), "phone", "", "", "")
    revoke(device)
    assert admin_client.post(f"/admin/auth/user/{ana.pk}/delete/", {"post": "yes"}).status_code == 302
    assert Device.objects.get().user is None


# --- manage.py enrollment_code


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("enrollment_code", *arguments, stdout=out)
    return out.getvalue()


def test_command_prints_a_code_that_works() -> None:
    shown = run("--scope", "store:7", "--scope", "global")
    (code, again) = CODE.findall(shown)
    assert code == again
    assert "POST /devices/enroll" in shown
    assert enroll(code, "Tablet 12", "", "", "")[0].scopes == ["global", "store:7"]


def test_command_as_json() -> None:
    User.objects.create_user("ana")
    told = json.loads(run("--user", "ana", "--hours", "2", "--json"))
    assert CODE.fullmatch(told.pop("code"))
    assert told == {"scopes": ["global"], "user": "ana", "hours": 2}
    assert str(EnrollmentCode.objects.get().user) == "ana"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--user", "nobody"], "There is no user 'nobody'"),
        (["--scope", "no scope"], "A scope is a name"),
        (["--hours", "0"], "1 to 72 hours"),
        (["--hours", "soon"], "invalid int"),
    ],
)
def test_command_tells_what_is_wrong(arguments: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        run(*arguments)
    assert not EnrollmentCode.objects.exists()
