"""A revoked device gets nothing, at no endpoint, from its next call on (rule T5 of docs/protocol.md)."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.db import connection
from django.test import Client

from devices.enroll import revoke
from entities.models import Contact
from tests.integration.sync_support import TestDevice, contact, create, other_connection, problem, sql, update

pytestmark = pytest.mark.django_db(transaction=True)
DOCUMENT = yaml.safe_load((settings.BASE_DIR / "openapi.yaml").read_text())


def endpoints() -> Iterator[tuple[str, str]]:
    """Those that openapi.yaml says a device's token is for."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if {"device": []} in operation.get("security", []):
                yield method, path


@pytest.mark.protocol("T5")
@pytest.mark.parametrize("wipe", [False, True])
def test_revoked_device_is_refused_at_every_endpoint(wipe: bool) -> None:
    device = TestDevice()
    device.pull()
    revoke(device.device, wipe)
    found = list(endpoints())
    assert {path for _, path in found} >= {"/sync/pull", "/sync/push", "/sync/schema", "/devices/me"}
    for method, path in found:
        if wipe and path == "/devices/me/wiped":
            continue
        address = f"{path.replace('{id}', str(uuid.uuid4()))}?token={device.token}"
        body = {} if method == "get" else {"data": {"mutations": [create()]}, "content_type": "application/json"}
        answer = getattr(Client(), method)(address, headers=device.headers, **body)
        assert problem(answer) == (401, "device_revoked"), path
        assert answer.json().get("wipe", False) is wipe, path
    assert not Contact.objects.exists()


@pytest.mark.protocol("T5")
def test_pull_of_several_pages_ends_where_the_device_is_revoked() -> None:
    device = TestDevice()
    for _ in range(3):
        contact()
    page = device.page(None, limit=1)
    assert page["has_more"]
    revoke(device.device)
    assert problem(device.ask(page["token"], 1)) == (401, "device_revoked")


@pytest.mark.protocol("T5")
def test_push_that_is_under_way_when_its_device_is_revoked_ends_and_is_the_last() -> None:
    device = TestDevice()
    row = contact()
    answers: list[Any] = []

    def push() -> None:
        answers.append(device.send({"mutations": [update(row, 1, first_name="Eva")]}))
        connection.close()

    with other_connection() as writer:
        writer.execute("SELECT FROM entities_contact WHERE id = %s FOR UPDATE", [row])
        pushing = threading.Thread(target=push)
        pushing.start()
        while not sql(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%entities_contact%%'"
        ):
            assert pushing.is_alive()
        revoke(device.device)
    pushing.join()
    assert answers[0].json()["results"][0]["status"] == "applied"
    assert problem(device.send({"mutations": [update(row, 2, first_name="Ida")]})) == (401, "device_revoked")
    assert problem(device.ask(None)) == (401, "device_revoked")
    assert Contact.objects.get().first_name == "Eva"
