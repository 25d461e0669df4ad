"""Enrolment: a code becomes a device, once."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from devices.enroll import ALPHABET, CODE_GROUP_LENGTH, CODE_GROUPS, code_hash, create_code, enroll
from devices.models import Device, EnrollmentCode, EnrollmentFailure, Grant
from syncserver.errors import Problem

pytestmark = pytest.mark.django_db


def post(client: Client, body: object, **headers: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body)
    return client.post("/devices/enroll", raw, content_type="application/json", **headers)


def enroll_with(client: Client, code: str, **more: str) -> Any:
    return post(client, {"code": code, "name": "Tablet 12", "platform": "android 16", "app_version": "1.4.0", **more})


def expire(code: str) -> None:
    EnrollmentCode.objects.filter(code_hash=code_hash(code)).update(expires_at=timezone.now())


def test_enroll_returns_device_token_and_scopes(client: Client) -> None:
    response = enroll_with(client, create_code(["store:7", "global"]))
    assert response.status_code == 201
    assert list(response.json()) == ["device", "token", "scopes"]
    assert response.json()["scopes"] == ["global", "store:7"]
    assert response.headers["Cache-Control"] == "no-store"
    device = Device.objects.get(pk=response.json()["device"])
    assert (device.name, device.platform, device.app_version) == ("Tablet 12", "android 16", "1.4.0")


def test_enrolled_token_opens_the_api(client: Client) -> None:
    token = enroll_with(client, create_code(["global"])).json()["token"]
    assert client.get("/devices/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_enroll_gives_the_scopes_of_the_code_and_of_its_user(client: Client) -> None:
    ana = User.objects.create_user("ana")
    Grant.objects.create(user=ana, scope="user:ana")
    Grant.objects.create(user=ana, scope="global")
    response = enroll_with(client, create_code(["global"], ana))
    assert response.json()["scopes"] == ["global", "user:ana"]
    assert Device.objects.get().user == ana


def test_code_has_80_bits_and_no_ambiguous_letter() -> None:
    code = create_code([])
    assert re.fullmatch(r"[0-9A-Z]{4}(-[0-9A-Z]{4}){3}", code)
    assert len(set(ALPHABET)) ** (CODE_GROUPS * CODE_GROUP_LENGTH) >= 2**80
    assert not set("ILOU") & set(ALPHABET)


@pytest.mark.parametrize(
    "typed",
    [
        str.lower,
        lambda code: code.replace("-", ""),
        lambda code: f"  {code.replace('-', ' ')} ",
        lambda code: code.replace("0", "O").replace("1", "l"),
    ],
)
def test_code_is_accepted_as_people_type_it(client: Client, typed: Callable[[str], str]) -> None:
    assert enroll_with(client, typed(create_code([]))).status_code == 201


# --- Refusals


def test_enroll_used_code_returns_403(client: Client) -> None:
    code = create_code(["global"])
    enroll_with(client, code)
    response = enroll_with(client, code)
    assert (response.status_code, response.json()["code"]) == (403, "enrollment_refused")
    assert Device.objects.count() == 1


def test_wrong_used_and_expired_code_are_refused_alike(client: Client) -> None:
    used, expired = create_code([]), create_code([])
    enroll_with(client, used)
    expire(expired)
    answers = [enroll_with(client, code) for code in (used, expired, "K7QF-2M9X-3TRW-8HDN", "x", "ü\t" * 50)]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


def test_enroll_beyond_the_scopes_of_one_device_leaves_the_code_open(client: Client, settings: Any) -> None:
    ana = User.objects.create_user("ana")
    Grant.objects.create(user=ana, scope="user:ana")
    code = create_code(["global", "store:7"], ana)
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    assert enroll_with(client, code).json()["code"] == "too_many_scopes"
    assert not Device.objects.exists()
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 3
    assert enroll_with(client, code).status_code == 201


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_json", None),
        (b'{"code":', "invalid_json", None),
        (b'{"code":"a","name":"\\ud83d"}', "invalid_json", None),  # half of a character
        (b'{"code":"a","name":"\xff"}', "invalid_json", None),
        (b'{"code":"a","name":"a\\u0000b"}', "invalid_request", None),
        (b"[]", "invalid_request", ""),
        ({"code": "a"}, "invalid_request", "name"),
        ({"code": "a", "name": 5}, "invalid_request", "name"),
        ({"code": "a", "name": None}, "invalid_request", "name"),
        ({"code": "a", "name": ""}, "invalid_request", "name"),
        ({"code": "a", "name": "n" * 101}, "invalid_request", "name"),
        ({"code": "a", "name": "n", "platform": "p" * 101}, "invalid_request", "platform"),
        ({"code": "a", "name": "n", "app_version": "v" * 51}, "invalid_request", "app_version"),
        ({"code": "a", "name": "n", "operating_system": "android"}, "unknown_field", "operating_system"),
    ],
)
def test_enroll_bad_body_returns_400_and_names_the_member(
    client: Client, body: object, code: str, field: str | None
) -> None:
    response = post(client, body)
    assert (response.status_code, response.json()["code"], response.json().get("field")) == (400, code, field)
    assert not EnrollmentFailure.objects.exists()


def test_enroll_form_encoded_body_returns_415(client: Client) -> None:
    assert client.post("/devices/enroll", {"code": "a", "name": "b"}).status_code == 415


def test_enroll_large_body_returns_413(client: Client) -> None:
    assert enroll_with(client, "a", name="n" * 64_000).status_code == 413


def test_enroll_by_get_returns_405(client: Client) -> None:
    response = client.get("/devices/enroll")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


# --- Rate limit


def test_enroll_after_too_many_failures_returns_429_even_with_a_good_code(client: Client, settings: Any) -> None:
    for _ in range(settings.SYNC_ENROLLMENT_FAILURES_MAX):
        assert enroll_with(client, "wrong").status_code == 403
    code = create_code([])
    response = enroll_with(client, code)
    assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
    assert 0 < int(response.headers["Retry-After"]) <= settings.SYNC_ENROLLMENT_FAILURES_WINDOW_SECONDS
    assert response.json()["retry_after_seconds"] == int(response.headers["Retry-After"])
    assert EnrollmentFailure.objects.count() == settings.SYNC_ENROLLMENT_FAILURES_MAX
    assert enroll(code, "from elsewhere", "", "", "203.0.113.9")


def test_failures_count_for_the_window_only_and_are_removed_after_it(client: Client, settings: Any) -> None:
    for _ in range(settings.SYNC_ENROLLMENT_FAILURES_MAX):
        enroll_with(client, "wrong")
    before = timezone.now() - timedelta(seconds=settings.SYNC_ENROLLMENT_FAILURES_WINDOW_SECONDS)
    EnrollmentFailure.objects.update(at=before)
    assert enroll_with(client, "wrong").status_code == 403
    assert EnrollmentFailure.objects.count() == 1


def test_success_is_not_counted(client: Client, settings: Any) -> None:
    settings.SYNC_ENROLLMENT_FAILURES_MAX = 1
    assert [enroll_with(client, create_code([])).status_code for _ in range(3)] == [201, 201, 201]


# --- Simultaneous calls


def together(count: int, call: Callable[[], Any]) -> list[Any]:
    """Call from so many threads at one moment, each with a database connection of its own; results or the problems."""
    barrier = Barrier(count)

    def run(_: int) -> Any:
        try:
            barrier.wait()
            return call()
        except Problem as problem:
            return problem.code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("addresses", [1, 2])
def test_two_at_once_with_one_code_make_one_device(addresses: int) -> None:
    for _ in range(5):
        code = create_code(["global"])
        remote = iter(["203.0.113.1", f"203.0.113.{addresses}"])

        def enroll_twin(code: str = code, remote: Iterator[str] = remote) -> Any:
            return enroll(code, "twin", "", "", next(remote))

        results = together(2, enroll_twin)
        assert sorted(isinstance(result, tuple) for result in results) == [False, True]
        assert "enrollment_refused" in results
    assert Device.objects.count() == Grant.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_burst_of_guesses_stops_at_the_limit(settings: Any) -> None:
    settings.SYNC_ENROLLMENT_FAILURES_MAX = 3
    results = together(8, lambda: enroll("wrong", "burst", "", "", "203.0.113.1"))
    assert sorted(results) == ["enrollment_refused"] * 3 + ["rate_limited"] * 5


# --- Secrets


def test_code_and_token_are_nowhere_in_the_database_in_clear(client: Client) -> None:
    code = create_code(["global"], hours=1)
    token = enroll_with(client, code).json()["token"]
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT coalesce(string_agg(t::text, chr(10)), $$$$) FROM "{table}" t')
            (content,) = cursor.fetchone()
            for secret in (code, code.replace("-", ""), token, token.removeprefix("sd_")):
                assert secret not in content
                assert secret.encode().hex() not in content


# --- Making codes


@pytest.mark.parametrize(
    "scope", ["", "store:", ":7", "7", "a b:c", "store:7 ", "store:\n", "s:" + "x" * 199, "store:\0"]
)
def test_create_code_refuses_what_is_no_scope(scope: str) -> None:
    with pytest.raises(ValidationError, match="A scope is a name"):
        create_code([scope])


@pytest.mark.parametrize("scope", ["global", "store:7", "user:0198-ab", "region:Nord Süd", "s:" + "x" * 198])
def test_create_code_accepts_scopes(scope: str) -> None:
    create_code([scope, scope])
    assert EnrollmentCode.objects.get().scopes == [scope]


@pytest.mark.parametrize("hours", [0, -1, 73])
def test_create_code_refuses_hours_out_of_range(hours: int) -> None:
    with pytest.raises(ValidationError, match="1 to 72 hours"):
        create_code([], hours=hours)


def test_create_code_refuses_too_many_scopes(settings: Any) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    with pytest.raises(ValidationError, match="2 scopes at most"):
        create_code(["a", "b", "c"])


def test_code_of_a_deleted_user_dies_with_them(client: Client) -> None:
    ana = User.objects.create_user("ana")
    code = create_code(["global"], ana)
    ana.delete()
    assert enroll_with(client, code).status_code == 403
