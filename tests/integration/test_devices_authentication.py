"""Who is calling: tokens, revocation, scopes, and what a call leaves behind."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from devices.authentication import identify, parse_client, seen, token_hash
from devices.enroll import create_code, enroll, revoke, rotate
from devices.grants import grant, revoke_scope
from devices.models import Device, Grant
from syncserver.errors import Problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def tablet() -> tuple[Device, str]:
    """A device and its token."""
    return enroll(create_code(["global", "store:7"]), "Tablet 12", "android 16", "1.4.0", "203.0.113.1")


def me(client: Client, token: str, **headers: str) -> Any:
    return client.get("/devices/me", headers={"Authorization": f"Bearer {token}", **headers})


def test_me_says_who_calls(client: Client, tablet: tuple[Device, str]) -> None:
    device, token = tablet
    body = me(client, token).json()
    assert body == {
        "device": str(device.id),
        "name": "Tablet 12",
        "platform": "android 16",
        "app_version": "1.4.0",
        "scopes": ["global", "store:7"],
        "user": None,
        "enrolled_at": device.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "last_seen_at": body["last_seen_at"],
    }
    assert datetime.fromisoformat(body["last_seen_at"]) > device.created_at


def test_me_times_have_microseconds_and_z(client: Client, tablet: tuple[Device, str]) -> None:
    Device.objects.update(created_at=datetime(2026, 11, 21, 9, tzinfo=UTC))
    assert me(client, tablet[1]).json()["enrolled_at"] == "2026-11-21T09:00:00.000000Z"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer sd_" + "A" * 43,
        "Bearer sd_\xff\xfe",
        "Bearer " + "x" * 5000,
        "Basic YTpi",
        "Token abc",
        "Bearer ' OR 1=1 --",
    ],
)
def test_missing_and_forged_tokens_return_401(client: Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = client.get("/devices/me", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_stored_hash_is_not_a_token(client: Client, tablet: tuple[Device, str]) -> None:
    assert me(client, bytes(Device.objects.get().token_hash).hex()).status_code == 401


def test_scheme_is_read_in_any_case(client: Client, tablet: tuple[Device, str]) -> None:
    assert client.get("/devices/me", headers={"Authorization": f"bearer {tablet[1]}"}).status_code == 200


def test_identify_is_one_query(tablet: tuple[Device, str]) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        device = identify(token_hash(tablet[1]))
        assert (device.name, device.scopes, device.is_authenticated) == ("Tablet 12", ["global", "store:7"], True)
    assert len(queries) == 1


def test_identity_function_keeps_one_plan_for_all_callers() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT l.lanname, f.proconfig FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang "
            "WHERE f.proname = 'devices_identity'"
        )
        assert cursor.fetchall() == [("plpgsql", ["plan_cache_mode=force_generic_plan"])]


# --- Rotation


def test_rotate_by_get_returns_405(client: Client, tablet: tuple[Device, str]) -> None:
    response = client.get("/devices/me/rotate", headers={"Authorization": f"Bearer {tablet[1]}"})
    assert (response.status_code, response.headers["Allow"]) == (405, "POST, OPTIONS")


# --- Revocation


@pytest.mark.parametrize("wipe", [False, True])
def test_revoked_device_gets_401_at_once(client: Client, tablet: tuple[Device, str], wipe: bool) -> None:
    device, token = tablet
    assert me(client, token).status_code == 200
    revoke(device, wipe)
    for response in (
        me(client, token),
        client.post("/devices/me/rotate", headers={"Authorization": f"Bearer {token}"}),
    ):
        assert (response.status_code, response.json()["code"]) == (401, "device_revoked")
        assert response.json().get("wipe") is (True if wipe else None)


def test_revoke_again_keeps_the_moment_and_the_wipe(tablet: tuple[Device, str]) -> None:
    device = tablet[0]
    revoke(device, wipe=True)
    first = device.revoked_at
    revoke(device)
    device.refresh_from_db()
    assert (device.revoked_at, device.wipe, device.is_active) == (first, True, False)


def test_device_of_a_deactivated_user_is_refused_until_they_return(client: Client) -> None:
    ana = User.objects.create_user("ana")
    _, token = enroll(create_code(["global"], ana), "phone", "", "", "")
    assert me(client, token).json()["user"] == "ana"
    User.objects.update(is_active=False)
    assert me(client, token).json()["code"] == "device_revoked"
    User.objects.update(is_active=True)
    assert me(client, token).status_code == 200


# --- Scopes


def test_grant_and_revocation_count_at_the_next_call(client: Client, tablet: tuple[Device, str]) -> None:
    device, token = tablet
    assert grant("store:9", device)
    assert not grant("store:9", device)
    assert me(client, token).json()["scopes"] == ["global", "store:7", "store:9"]
    assert revoke_scope("global", device)
    assert not revoke_scope("global", device)
    assert me(client, token).json()["scopes"] == ["store:7", "store:9"]


def test_scopes_of_the_user_are_those_of_the_device_too(client: Client) -> None:
    ana = User.objects.create_user("ana")
    device, token = enroll(create_code(["store:7", "Zeta:1"], ana), "phone", "", "", "")
    other, other_token = enroll(create_code(["store:8"]), "other", "", "", "")
    for scope in ("store:7", "user:ana", "Alpha:1"):
        grant(scope, ana)
    expected = ["Alpha:1", "Zeta:1", "store:7", "user:ana"]  # each once, in byte order
    assert me(client, token).json()["scopes"] == expected
    assert Device.objects.get(pk=device.pk).scopes == expected
    assert me(client, other_token).json()["scopes"] == Device.objects.get(pk=other.pk).scopes == ["store:8"]


def test_grant_refuses_more_scopes_than_a_device_can_have(tablet: tuple[Device, str], settings: Any) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 3
    ana = User.objects.create_user("ana")
    Device.objects.update(user=ana)
    grant("user:ana", ana)
    for holder in (ana, Device.objects.get()):
        with pytest.raises(ValidationError, match="3 scopes at most"):
            grant("one:more", holder)
    assert Grant.objects.count() == 3


def test_grant_has_exactly_one_holder(tablet: tuple[Device, str]) -> None:
    ana = User.objects.create_user("ana")
    for holders in ({}, {"device": tablet[0], "user": ana}):
        with pytest.raises(IntegrityError, match="devices_grant_one_holder"), transaction.atomic():
            Grant.objects.create(scope="store:9", **holders)


# --- Last seen

CLIENT = "python-sdk/0.1.0; pending=12; oldest=2026-11-20T08:00:00.000000Z"


def test_call_is_noted_with_what_the_header_told(client: Client, tablet: tuple[Device, str]) -> None:
    me(client, tablet[1], **{"Sync-Client": CLIENT})
    device = Device.objects.get()
    assert device.last_seen_at is not None
    assert (device.client, device.pending) == ("python-sdk/0.1.0", 12)
    assert device.oldest_pending_at == datetime(2026, 11, 20, 8, tzinfo=UTC)


def test_calls_in_quick_succession_write_once(client: Client, tablet: tuple[Device, str]) -> None:
    me(client, tablet[1], **{"Sync-Client": CLIENT})
    first = Device.objects.get().last_seen_at
    with CaptureQueriesContext(connection) as queries:
        me(client, tablet[1], **{"Sync-Client": CLIENT.replace("12", "11")})
    assert not [query for query in queries if query["sql"].startswith("UPDATE")]
    assert Device.objects.get().last_seen_at == first


def test_call_after_the_interval_is_noted(client: Client, tablet: tuple[Device, str], settings: Any) -> None:
    long_ago = timezone.now() - timedelta(seconds=settings.SYNC_LAST_SEEN_SECONDS + 1)
    Device.objects.update(last_seen_at=long_ago, client="old-sdk/1", pending=3)
    me(client, tablet[1])
    device = Device.objects.get()
    assert device.last_seen_at is not None
    assert device.last_seen_at > long_ago
    assert (device.client, device.pending) == ("old-sdk/1", 3)  # without the header nothing new is known


def test_emptied_outbox_is_noted_at_once(client: Client, tablet: tuple[Device, str]) -> None:
    me(client, tablet[1], **{"Sync-Client": CLIENT})
    me(client, tablet[1], **{"Sync-Client": "python-sdk/0.1.0; pending=0"})
    device = Device.objects.get()
    assert (device.pending, device.oldest_pending_at) == (0, None)


def test_seen_without_knowing_what_was_noted_goes_by_time_only(tablet: tuple[Device, str]) -> None:
    device, token = tablet
    seen(token_hash(token), device.id, timezone.now(), CLIENT)
    assert Device.objects.get().pending is None
    seen(token_hash(token), device.id, None, CLIENT)
    assert Device.objects.get().pending == 12


@pytest.mark.parametrize(
    ("header", "client", "pending", "oldest"),
    [
        ("sdk/1.0", "sdk/1.0", None, None),
        ("sdk", "sdk", None, None),
        ("sdk/1.0; pending=0", "sdk/1.0", 0, None),
        ('sdk/1.0;pending="7";oldest="2026-11-20T08:00:00+02:00"', "sdk/1.0", 7, datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("sdk/1.0; pending=-1; oldest=yesterday", "sdk/1.0", None, None),
        ("sdk/1.0; pending=1e9", "sdk/1.0", None, None),
        ("sdk/1.0; pending=999999999999", "sdk/1.0", 2**31 - 1, None),
        ("sdk/1.0; pending=" + "9" * 5000, "sdk/1.0", None, None),
        ("sdk/1.0; pending=\u0663", "sdk/1.0", None, None),  # a digit, but not an ASCII one
        ("sdk/1.0; oldest=2026-13-40T99:00:00Z", "sdk/1.0", None, None),
        ("sdk/1.0; oldest=2026-11-20T08:00:00", "sdk/1.0", None, None),  # of no zone
        ("sdk/1.0; oldest=0001-01-01T00:00:00+14:00", "sdk/1.0", None, None),
        ("x" * 500, "x" * 100, None, None),
        ("<b>sdk</b>", "", None, None),
        (";;;=;pending", "", None, None),
        ("\xff\x00", "", None, None),
    ],
)
def test_client_header_is_read_leniently(
    header: str, client: str, pending: int | None, oldest: datetime | None
) -> None:
    assert parse_client(header) == (client, pending, oldest)


def test_malformed_client_header_never_fails_a_call(client: Client, tablet: tuple[Device, str]) -> None:
    for header in ("\xff\xfe", "pending=9" * 400, "a;b;c;pending=;oldest=;", "sdk/1; oldest=9999-12-31T23:59:59-14:00"):
        Device.objects.update(last_seen_at=None)
        assert me(client, tablet[1], **{"Sync-Client": header}).status_code == 200


# --- Secrets


def test_token_is_long_and_recognisable(tablet: tuple[Device, str]) -> None:
    device, token = tablet
    assert token.startswith("sd_")
    assert len(token) == len("sd_") + len(secrets.token_urlsafe(32))
    assert rotate(device, token_hash(token)) != token


def test_identify_unknown_hash_is_unauthorized() -> None:
    with pytest.raises(Problem, match="unauthorized"):
        identify(token_hash("nobody's"))
