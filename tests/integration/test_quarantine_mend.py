"""What was refused is mended in a form and replayed, or discarded, and nothing of it is lost."""

import json
import re

import pytest
from django.test import Client

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.models import Outcome, Rejection
from tests.integration.conflict_support import rev_of
from tests.integration.pages_support import EVIL, clerk, shown, text
from tests.integration.quarantine_pages_support import MEND, bad_email, mend, page, refused, sent
from tests.integration.sync_support import TestDevice, contact, create, delete, employee, new_customer, new_id, update

pytestmark = pytest.mark.django_db


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


# --- discarding


def test_discard_needs_a_reason(admin_client: Client, device: TestDevice) -> None:
    rejection = bad_email(device)
    answer = admin_client.post(page(rejection), {"discard": "1", "reason": " "})
    assert "Say why it is discarded." in text(answer)
    answer = admin_client.post(page(rejection), {"discard": "1", "reason": f"a duplicate {EVIL}"}, follow=True)
    assert "Discarded by admin" in text(answer)
    rejection.refresh_from_db()
    assert (rejection.state, rejection.comment) == ("discarded", f"a duplicate {EVIL}")
