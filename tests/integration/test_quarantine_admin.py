"""The quarantine in the admin: what was refused is found, mended in a form, replayed or discarded, by who may."""

import json
import re
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.models import Outcome, Rejection
from sync.pages.mend import MendForm, sent_by
from sync.pages.timeline import row_now
from sync.wire import entities
from tests.integration.conflict_support import rev_of
from tests.integration.pages_support import EVIL, clerk, shown, text
from tests.integration.sync_support import (
    Row,
    TestDevice,
    contact,
    create,
    delete,
    employee,
    new_customer,
    new_id,
    update,
)

pytestmark = pytest.mark.django_db
LIST = "/admin/sync/rejection/"
MEND = ("sync.change_rejection", "entities.view_contact", "entities.change_contact", "entities.add_contact")


@pytest.fixture
def device() -> TestDevice:
    made = TestDevice()
    made.device.name = f"Tablet {EVIL}"
    made.device.save()
    return made


def refused(device: TestDevice, *mutations: Row) -> Rejection:
    """The first of these mutations, in quarantine."""
    assert device.push(*mutations)[0]["status"] == "rejected"
    return Rejection.objects.get(mutation=mutations[0]["id"])


def bad_email(device: TestDevice, **more: Any) -> Rejection:
    return refused(device, create(first_name="Ana", email="ana at example", **more))


def page(rejection: Rejection) -> str:
    return f"{LIST}{rejection.pk}/change/"


def sent(rejection: Rejection, **changed: Any) -> dict[str, Any]:
    """The form as a browser sends it, with some of its fields changed."""
    request = HttpRequest()
    request.user = User.objects.get(is_superuser=True)
    now = row_now(rejection.entity, rejection.row_id)
    form = MendForm(request, entities()[rejection.entity], rejection.op, sent_by(rejection), now.values)
    given = {}
    for bound in form:
        value = bound.value()
        if value is not None and value is not False:
            given[bound.html_name] = "on" if value is True else str(value)
    return given | {f"set-{name}": value for name, value in changed.items()} | {"replay": ""}


def mend(client: Client, rejection: Rejection, **changed: Any) -> Any:
    return client.post(page(rejection), sent(rejection, **changed), follow=True)


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


# --- mending and replaying


def test_mended_change_is_applied_and_its_device_is_told(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    answer = mend(admin_client, rejection, email="ana@example.org")
    assert "Replayed by admin" in text(answer)
    assert Contact.objects.get().email == "ana@example.org"
    rejection.refresh_from_db()
    assert (rejection.state, rejection.decided_by) == ("replayed", "user:admin")
    assert rejection.mended == {"first_name": "Ana", "email": "ana@example.org"}
    device.pull()
    assert device.of("contact")[str(rejection.row_id)]["email"] == "ana@example.org"
    assert Outcome.objects.get().outcome == "replayed"


def test_bad_value_comes_back_in_the_form_and_nothing_is_lost(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    answer = mend(admin_client, rejection, email="still wrong", note="a long note that was entered", first_name="Anna")
    found = text(answer)
    for told in ("Not replayed", "still wrong", "a long note that was entered", "Anna", "Enter a valid email"):
        assert told in found
    assert not Contact.objects.exists()
    rejection.refresh_from_db()
    assert rejection.state == "open"


def test_what_only_the_database_refuses_comes_back_in_the_form(admin_client: Client, device: TestDevice) -> None:
    Product.objects.create(code="1", name="Chai")
    order = Order.objects.create(customer=new_customer(), ordered_on="2026-11-21")
    rejection = refused(
        device, create("order_line", order_id=str(order.pk), product_id=new_id(), unit_price="1", quantity=1)
    )
    answer = mend(admin_client, rejection, product_id=str(new_id()))
    assert "Select a valid choice" in text(answer)
    assert not OrderLine.objects.exists()


def test_field_is_left_as_it_is(admin_client: Client, device: TestDevice) -> None:
    row = contact("Ana")
    Contact.objects.update(email="ana@example.org")
    rejection = refused(device, update(row, 2, email="no address", note="call back"))
    data = sent(rejection) | {"omit-email": "on"}
    admin_client.post(page(rejection), data)
    changed = Contact.objects.get()
    assert (changed.email, changed.note) == ("ana@example.org", "call back")
    rejection.refresh_from_db()
    assert rejection.mended == {"note": "call back"}


def test_field_that_was_not_sent_is_written_only_where_it_was_changed(admin_client: Client, device: TestDevice) -> None:
    row = contact("Ana")
    Contact.objects.update(note="two\nlines", phone="1")
    rejection = refused(device, update(row, 2, email="no address"))
    mend(admin_client, rejection, email="ana@example.org", note="two\r\nlines", title="Head")
    rejection.refresh_from_db()
    assert rejection.mended == {"email": "ana@example.org", "title": "Head"}


def test_unknown_and_read_only_fields_are_left_out(admin_client: Client, device: TestDevice) -> None:
    product = Product.objects.create(code="1", name="Chai")
    rejection = refused(device, update(str(product.pk), 1, "product", name="Chai, green", unit_price="20.0000"))
    assert "left out when you replay" in shown(admin_client, page(rejection))
    mend(admin_client, rejection)
    product.refresh_from_db()
    assert (product.name, str(product.unit_price)) == ("Chai, green", "0.0000")


def test_what_waited_for_it_goes_with_it(admin_client: Client, device: TestDevice) -> None:
    customer = new_id()
    rejection = refused(
        device, create("customer", row=customer, name=""), create(first_name="Ana", customer_id=customer)
    )
    assert "1 waits for it" in shown(admin_client, page(rejection))
    found = text(mend(admin_client, rejection, name="Alfreds Futterkiste"))
    assert "Create contact</a>: applied" in found
    assert str(Contact.objects.get().customer) == "Alfreds Futterkiste"
    assert not Rejection.objects.filter(state="open").exists()


def test_reference_is_chosen_by_name(admin_client: Client, device: TestDevice) -> None:
    customer = new_customer(name="Alfreds Futterkiste")
    rejection = refused(device, create(first_name="Ana", customer_id=new_id()))
    assert "admin-autocomplete" in shown(admin_client, page(rejection))
    mend(admin_client, rejection, customer_id=str(customer.pk))
    assert Contact.objects.get().customer == customer


def test_reference_does_not_tell_of_rows_that_the_person_may_not_see(device: TestDevice) -> None:
    customer = new_customer(name="A secret customer")
    rejection = bad_email(device, customer_id=str(customer.pk))
    found = shown(clerk(*MEND), page(rejection))
    assert "A secret customer" not in found
    assert str(customer.pk) in found


def test_replay_that_meets_a_conflict_leads_to_it(admin_client: Client, device: TestDevice) -> None:
    row = contact("Ana")
    rejection = refused(device, update(row, 1, email="no address", first_name="Ina"))
    Contact.objects.update(first_name="Eva", email="eva@example.org")
    answer = mend(admin_client, rejection, email="ina@example.org")
    rejection.refresh_from_db()
    assert rejection.conflict is not None
    assert f"/admin/sync/conflict/{rejection.conflict}/change/" in text(answer)
    assert "It met a conflict" in text(answer)


@pytest.mark.parametrize("base", [1, 2, 3, 2**62])
def test_page_marks_what_others_changed_since_the_device_saw_it(
    base: int, admin_client: Client, device: TestDevice
) -> None:
    row = contact("Ana")
    Contact.objects.update(note="call on Monday")
    Contact.objects.update(title="Owner")
    rejection = refused(device, update(row, base, email="no address", note="call on Friday"))
    found = shown(admin_client, page(rejection))
    assert found.count("changed since the device saw it") == {1: 2, 2: 1}.get(base, 0)


def test_members_of_a_group_are_mended_one_by_one_and_applied_together(
    admin_client: Client, device: TestDevice
) -> None:
    together = {"group": new_id()}
    one = refused(
        device,
        create(first_name="Ana", email="no address") | together,
        create(first_name="Eva", email="none either", note="call") | together,
    )
    other = Rejection.objects.get(row_id=Rejection.objects.exclude(pk=one.pk).get().row_id)
    told = text(mend(admin_client, one, email="ana@example.org"))
    assert "the reason may be another member's" in told
    assert not Contact.objects.exists()
    data = sent(other, email="eva@example.org")
    data.pop("replay")
    assert "Kept." in text(admin_client.post(page(other), data | {"keep": "1"}, follow=True))
    assert not Contact.objects.exists()
    assert "eva@example.org" in shown(admin_client, page(other))
    assert "mended, not applied yet" in shown(admin_client, page(one))
    mend(admin_client, one, email="ana@example.org")
    assert set(Contact.objects.values_list("email", "note")) == {("ana@example.org", ""), ("eva@example.org", "call")}
    other.refresh_from_db()
    assert (other.state, (other.mended or {})["email"]) == ("replayed", "eva@example.org")


def test_what_was_kept_comes_back_in_the_form_and_a_discard_forgets_it(
    admin_client: Client, device: TestDevice
) -> None:
    row, together = contact("Ana"), {"group": new_id()}
    rejection = refused(
        device,
        update(row, 1, email="no address", note="call") | together,
        create(first_name="") | together,
    )
    data = sent(rejection, title="Owner") | {"omit-email": "on", "keep": "1"}
    admin_client.post(page(rejection), data)
    rejection.refresh_from_db()
    assert rejection.mended == {"note": "call", "title": "Owner"}
    found = shown(admin_client, page(rejection))
    assert re.search('name="omit-email"[^>]*checked', found)
    assert 'value="Owner"' in found
    admin_client.post(page(rejection), {"discard": "1", "reason": "no use"})
    rejection.refresh_from_db()
    assert rejection.mended is None


def test_delete_is_replayed(admin_client: Client, device: TestDevice) -> None:
    customer = new_customer(name="Alfreds Futterkiste")
    order = Order.objects.create(customer=customer, ordered_on="2026-11-21")
    rejection = refused(device, delete(str(customer.pk), 1, "customer"))
    assert "Alfreds Futterkiste" in shown(admin_client, page(rejection))
    assert "still refer to this row" in text(admin_client.post(page(rejection), {"replay": ""}))
    order.delete()
    admin_client.post(page(rejection), {"replay": "", "comment": "as they asked"})
    assert not Customer.objects.exists()


def test_what_was_decided_meanwhile_is_not_decided_again(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    data = sent(rejection, email="ana@example.org")
    Rejection.objects.update(state="discarded")
    assert "Somebody decided about it meanwhile" in text(admin_client.post(page(rejection), data, follow=True))
    assert not Contact.objects.exists()


def test_what_goes_with_it_is_not_shown_to_who_may_not_see_it(device: TestDevice) -> None:
    customer, group = new_id(), new_id()
    parent = refused(device, create("customer", row=customer, name=""), create(first_name="Ana", customer_id=customer))
    grouped = refused(
        device, create("customer", name="") | {"group": group}, create(first_name="Eva") | {"group": group}
    )
    client = clerk(*(name.replace("contact", "customer") for name in MEND))
    for rejection in (parent, grouped):
        found = shown(client, page(rejection))
        assert "Discard it instead" in found
        assert "Create contact" not in found


def test_amount_that_was_refused_is_explained(admin_client: Client, device: TestDevice) -> None:
    product = Product.objects.create(code="1", name="Chai")
    rejection = refused(device, update(str(product.pk), 1, "product", name="Chai") | {"add": {"name": 2}})
    assert "An amount cannot be mended" in shown(admin_client, page(rejection))
    assert "is there" in shown(admin_client, page(rejection))
    assert admin_client.post(page(rejection), {"replay": "", "set-name": "Chai"}).status_code == 200


# --- discarding


def test_discard_needs_a_reason(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    answer = admin_client.post(page(rejection), {"discard": "1", "reason": " "})
    assert "Say why it is discarded." in text(answer)
    answer = admin_client.post(page(rejection), {"discard": "1", "reason": f"a duplicate {EVIL}"}, follow=True)
    assert "Discarded by admin" in text(answer)
    rejection.refresh_from_db()
    assert (rejection.state, rejection.comment) == ("discarded", f"a duplicate {EVIL}")


# --- many


def act(client: Client, action: str, *rejections: Rejection, **more: str) -> Any:
    data = {"action": action, "_selected_action": [str(each.pk) for each in rejections], **more}
    return client.post(LIST, data, follow=True)


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


def test_every_type_of_field_survives_the_form(admin_client: Client, device: TestDevice) -> None:
    e = Employee.objects.get(pk=employee(1))
    customer = new_customer()
    device.grant(f"employee:{e.pk}")
    values = {
        "customer_id": str(customer.pk),
        "employee_id": str(e.pk),
        "status": "confirmed",
        "ordered_on": "2026-11-21",
        "freight": "12.5000",
        "note": "  two\nlines ",
        "ship_city": "México D.F.",
    }
    rejection = refused(device, create("order", **values, number="not for devices"))
    mend(admin_client, rejection)
    rejection.refresh_from_db()
    assert rejection.mended == values
    assert rev_of(str(rejection.row_id)) == 1
    assert json.loads(rejection.body)["set"]["number"] == "not for devices"
