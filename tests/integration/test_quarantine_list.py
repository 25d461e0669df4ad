"""The list of the quarantine in the admin: what was refused is found, and decided about many at a time."""

import uuid
from typing import Any

import pytest
from django.test import Client

from entities.models import Contact
from sync.models import Rejection
from tests.integration.pages_support import clerk, shown, text
from tests.integration.quarantine_pages_support import LIST, act, bad_email, refused
from tests.integration.sync_support import TestDevice, create, new_id

pytestmark = pytest.mark.django_db


# --- the list


def test_list_counts_what_waits_by_device_and_cause(admin_client: Client, device: TestDevice) -> None:
    for _ in range(3):
        bad_email(device)
    found = shown(admin_client, LIST)
    assert "What waits, by device and cause" in found
    assert f"Show the 3 of {device.device.name}, invalid value" in found
    assert "Email: Enter a valid email address." in found


def test_list_takes_the_same_queries_for_many(
    admin_client: Client, device: TestDevice, django_assert_max_num_queries: Any
) -> None:
    shown(admin_client, LIST)
    for number in range(20):
        device.push(create("order_line", order_id=new_id(), product_id=new_id(), unit_price="1", quantity=number))
    with django_assert_max_num_queries(16):
        shown(admin_client, LIST)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 1),
        ("entity=contact", 1),
        ("entity=customer", 0),
        ("cause=invalid_value", 1),
        ("cause=unique", 0),
        ("device={device}", 1),
        (f"device={uuid.UUID(int=1)}", 0),
        ("device=nonsense", 0),
        ("age=1", 1),
        ("age=1%2B", 0),
        ("age=nonsense", 0),
        ("state=replayed", 0),
        ("state=all", 1),
        ("q={row}", 1),
        ("q=nonsense", 0),
    ],
)
def test_rejections_are_found(query: str, found: int, admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    address = f"{LIST}?{query.format(device=rejection.device, row=rejection.row_id)}"
    assert f"{found} rejection" in shown(admin_client, address)


def test_list_leaves_out_what_is_decided(admin_client: Client, device: TestDevice) -> None:
    bad_email(device)
    Rejection.objects.update(state="discarded")
    assert "0 rejections" in shown(admin_client, LIST)
    assert "1 rejection" in shown(admin_client, f"{LIST}?state=discarded")


def test_list_holds_only_entities_that_the_person_may_see(device: TestDevice) -> None:
    bad_email(device)
    refused(device, create("customer", name=""))
    found = shown(clerk("sync.view_rejection", "entities.view_contact"), LIST)
    assert "1 rejection" in found
    assert "Customer" not in found


# --- many


def test_many_are_replayed_as_they_are_once_that_is_confirmed(admin_client: Client) -> None:
    device = TestDevice("nothing")
    found = [refused(device, create(first_name=name)) for name in ("Ana", "Eva")]
    device.grant("global")
    asked = text(act(admin_client, "replay_selected", *found))
    assert "Replay 2 refused changes" in asked
    assert not Contact.objects.exists()
    assert "2 applied" in text(act(admin_client, "replay_selected", *found, confirmed="1"))
    assert Contact.objects.count() == 2


def test_many_that_are_still_wrong_stay_and_are_told(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    told = text(act(admin_client, "replay_selected", rejection, confirmed="1"))
    assert "1 was refused again" in told
    assert Rejection.objects.get().state == "open"


@pytest.mark.slow
def test_many_are_discarded_with_a_reason(admin_client: Client, device: TestDevice) -> None:
    found = [bad_email(device) for _ in range(2)]
    assert "Say why" in text(act(admin_client, "discard_selected", *found, confirmed="1"))
    assert "2 discarded" in text(act(admin_client, "discard_selected", *found, confirmed="1", reason="test data"))
    assert set(Rejection.objects.values_list("state", "comment")) == {("discarded", "test data")}


def test_too_many_at_once_are_refused(admin_client: Client, device: TestDevice, settings: Any) -> None:
    settings.SYNC_REPLAYS_MAX = 1
    assert "Choose at most 1" in text(act(admin_client, "replay_selected", bad_email(device), bad_email(device)))
