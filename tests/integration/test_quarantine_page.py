"""The page of what was refused: it shows whatever a device sent, to who may see it, and offers what they may do."""

import uuid
from typing import Any

import pytest
from django.test import Client

from sync.models import Rejection
from tests.integration.pages_support import EVIL, clerk, shown
from tests.integration.quarantine_pages_support import LIST, MEND, act, bad_email, mend, page, refused
from tests.integration.sync_support import Row, TestDevice, contact, create, new_id, update

pytestmark = pytest.mark.django_db


# --- the page of one


def test_page_shows_what_was_wrong_the_mutation_and_the_row_now(admin_client: Client, device: TestDevice) -> None:
    row = contact("Ana")
    rejection = refused(device, update(row, 1, email="no address", note=EVIL))
    found = shown(admin_client, page(rejection))
    for told in ("Enter a valid email address.", "no address", device.device.name, EVIL, "On the server now", "Ana"):
        assert told in found


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"first_name": "x" * 61}, "At most 60 characters are allowed."),
        ({"first_name": 7}, "This has to be a text, and is a whole number."),
        ({"first_name": None}, "This needs a value."),
        ({"met_on": "tomorrow"}, "met_on"),
        ({"customer_id": "nonsense"}, "nonsense"),
        ({"customer_id": {"a": [EVIL]}}, EVIL),
        ({"first_name": [EVIL]}, EVIL),
        ({"first_name": "Ana", "nickname": EVIL}, "The field is left out when you replay it."),
        ({"first_name": "a\x00b"}, "NUL"),
    ],
)
def test_page_shows_whatever_a_device_sent(values: Row, told: str, admin_client: Client, device: TestDevice) -> None:
    rejection = refused(device, create(**values))
    assert told in shown(admin_client, page(rejection))
    assert admin_client.post(page(rejection), {"replay": ""}).status_code in {200, 302}
    assert mend(admin_client, rejection).status_code == 200


@pytest.mark.parametrize("body", ["{}", "[]", "null", "no json", '{"set": 7, "add": [], "base": "x", "made_at": 1}'])
def test_page_shows_a_body_that_cannot_be_read(body: str, admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    Rejection.objects.update(body=body, errors=[], cause="")
    shown(admin_client, LIST)
    shown(admin_client, page(rejection))
    assert admin_client.post(page(rejection), {"replay": ""}).status_code == 200


@pytest.mark.parametrize("entity", ["kontact", "contact"])
def test_page_of_an_entity_that_is_no_more_can_be_discarded(
    entity: str, admin_client: Client, device: TestDevice
) -> None:
    rejection = bad_email(device)
    Rejection.objects.update(entity=entity)
    shown(admin_client, page(rejection))
    admin_client.post(page(rejection), {"discard": "1", "reason": "an old app"})
    assert Rejection.objects.get().state == "discarded"


@pytest.mark.parametrize("key", ["nonsense", str(uuid.UUID(int=1)), "add"])
def test_page_of_what_is_not_there_is_not_found(key: str, admin_client: Client) -> None:
    address = f"{LIST}{key}/" + ("" if key == "add" else "change/")
    assert admin_client.get(address).status_code == (403 if key == "add" else 404)


def test_page_takes_the_same_queries_whatever_waits(
    admin_client: Client, device: TestDevice, django_assert_max_num_queries: Any
) -> None:
    missing = new_id()
    parent = create("customer", row=missing, name="")
    children = [create(row=new_id(), first_name=f"C{n}", customer_id=missing) for n in range(20)]
    rejection = refused(device, parent, *children)
    with django_assert_max_num_queries(16):
        assert "20 wait for it" in shown(admin_client, page(rejection))


# --- who may


@pytest.mark.parametrize(
    ("permissions", "see", "decide"),
    [
        ((), 403, 403),
        (("sync.view_rejection",), 403, 403),
        (("entities.view_contact",), 403, 403),
        (("sync.view_rejection", "entities.view_customer"), 403, 403),
        (("sync.view_rejection", "entities.view_contact"), 200, 403),
        (("sync.change_rejection", "entities.view_contact"), 200, 403),
        (("sync.view_rejection", "entities.change_contact", "entities.add_contact"), 200, 403),
        (MEND, 200, 302),
    ],
)
def test_who_may_see_and_decide(permissions: tuple[str, ...], see: int, decide: int, device: TestDevice) -> None:
    rejection = bad_email(device)
    client = clerk(*permissions)
    assert client.get(page(rejection)).status_code == see
    assert act(client, "discard_selected", rejection, confirmed="1", reason="x").status_code in {200, 403}
    assert Rejection.objects.get().state == ("discarded" if decide == 302 else "open")
    Rejection.objects.update(state="open")
    assert client.post(page(rejection), {"discard": "1", "reason": "x"}).status_code == decide


def test_page_does_not_offer_what_the_person_may_not_do(device: TestDevice) -> None:
    found = shown(clerk("sync.view_rejection", "entities.view_contact"), page(bad_email(device)))
    assert "You may look at it" in found
    assert "Discard it instead" not in found


def test_rejections_are_neither_added_nor_deleted_by_hand(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{rejection.pk}/delete/", {"post": "yes"}).status_code == 403
