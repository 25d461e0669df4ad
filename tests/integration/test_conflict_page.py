"""The admin's page of one conflict: what it shows, and what it writes."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from entities.models import Contact, Customer, Product
from sync.models import Conflict, Decision
from tests.integration.conflict_pages_support import address, decide, filled, met, read, somebody, text_of
from tests.integration.pages_support import EVIL
from tests.integration.sync_support import TestDevice, delete, history, new_customer, update

pytestmark = pytest.mark.django_db


@pytest.fixture
def tablet() -> TestDevice:
    made = TestDevice()
    type(made.device).objects.filter(pk=made.device.pk).update(name="Tablet 3")
    return made


def test_page_shows_every_side_and_who_changed_what(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "030-9"}, {"phone": "030-7"}, phone="030-1")
    told = text_of(read(admin_client, address(conflict)))
    for fact in ("030-1", "030-9", "030-7", "Tablet 3", "Maria Anders", "The server’s values stand until"):
        assert fact in told
    assert history(str(contact.pk))[1][2].removeprefix("sql:") in told


def test_values_from_devices_are_shown_as_text(admin_client: Client, tablet: TestDevice) -> None:
    type(tablet.device).objects.update(name=f"Tablet {EVIL}")
    sent = {"first_name": EVIL, "note": f"{EVIL} & more " * 40}
    _, conflict = met(tablet, {"first_name": "Eva"}, sent, title=EVIL)
    Contact.objects.update(title=f"{EVIL}2")
    html = read(admin_client, address(conflict))
    assert EVIL not in html
    assert EVIL in text_of(html)
    assert EVIL not in read(admin_client, "/admin/sync/conflict/")


@pytest.mark.parametrize("value", ["x", 1.5, {"a": 1}])
def test_values_of_a_field_that_was_no_reference_then_are_shown(
    admin_client: Client, tablet: TestDevice, value: Any
) -> None:
    _, conflict = met(tablet, {"phone": "9"}, {"phone": "7"}, phone="1")
    values = {
        "fields": ["customer_id"],
        "server": {"customer_id": value},
        "device_values": {"set": {"customer_id": value}},
    }
    Conflict.objects.update(**values)
    read(admin_client, "/admin/sync/conflict/")
    read(admin_client, address(conflict))


def test_one_field_from_each_side_makes_the_row(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(
        tablet, {"phone": "9", "title": "Boss"}, {"phone": "7", "title": "Chief"}, phone="1", title="Clerk"
    )
    answer = decide(admin_client, conflict, pick_phone="device", pick_title="server", comment="She told me.")
    assert answer.status_code == 302
    contact.refresh_from_db()
    assert (contact.phone, contact.title) == ("7", "Boss")
    decision = Decision.objects.get()
    assert (decision.state, decision.comment, decision.by) == ("mixed", "She told me.", "user:admin")
    assert history(str(contact.pk))[-1][2] == "user:admin"


def test_value_of_ones_own_is_written_by_its_type(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"met_on": "2026-01-02"}, {"met_on": "2026-01-03"}, met_on="2026-01-01")
    html = read(admin_client, address(conflict))
    assert 'type="date" name="own-met_on" value="2026-01-02"' in html
    assert decide(admin_client, conflict, pick_met_on="own", own_met_on="2026-02-28").status_code == 302
    contact.refresh_from_db()
    assert str(contact.met_on) == "2026-02-28"


def test_lines_of_ones_own_text_end_as_on_devices(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"title": "a"}, {"title": "b", "note": "one"})
    decide(admin_client, conflict, pick_title="server", pick_note="own", own_note="one\r\ntwo")
    contact.refresh_from_db()
    assert contact.note == "one\ntwo"


@pytest.mark.parametrize(
    ("picks", "told"),
    [
        ({}, "Choose what shall stand."),
        ({"pick_met_on": "nobody"}, "Choose what shall stand."),
        ({"pick_met_on": "own", "own_met_on": "soon"}, "Enter a valid date."),
    ],
)
def test_what_is_no_decision_is_told_beside_its_field(
    admin_client: Client, tablet: TestDevice, picks: dict[str, str], told: str
) -> None:
    contact, conflict = met(tablet, {"met_on": "2026-01-02"}, {"met_on": "2026-01-03"})
    answer = decide(admin_client, conflict, **picks)
    assert answer.status_code == 200
    assert told in text_of(answer.content.decode())
    assert not Decision.objects.exists()
    assert len(history(str(contact.pk))) == 2


def test_rule_of_the_model_is_told_beside_its_field(admin_client: Client, tablet: TestDevice) -> None:
    _, conflict = met(tablet, {"email": "a@b.example"}, {"email": "c@d.example"})
    answer = decide(admin_client, conflict, pick_email="own", own_email="nonsense")
    assert "Enter a valid email address." in text_of(answer.content.decode())


@pytest.mark.slow
def test_row_that_moved_is_shown_and_never_overwritten(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "9", "title": "Boss"}, {"phone": "7", "title": "Chief"})
    data = filled(admin_client, conflict, pick_phone="server", pick_title="device")
    Contact.objects.update(phone="10")
    answer = admin_client.post(address(conflict), data)
    html = " ".join(answer.content.decode().split())
    told = text_of(html)
    assert "changed while you were looking at it" in told
    assert "phone from 9 to 10" in told
    assert 'value="device" id="pick-title-device" checked' in html  # still means the same
    assert 'name="pick-phone" value="server" id="pick-phone-server" checked' not in html  # was about 9
    assert not Decision.objects.exists()
    decide(admin_client, conflict, pick_phone="server", pick_title="device")
    contact.refresh_from_db()
    assert (contact.phone, contact.title) == ("10", "Chief")


def test_decision_of_somebody_else_is_not_overturned_unseen(admin_client: Client, tablet: TestDevice) -> None:
    _, conflict = met(tablet, {"phone": "9"}, {"phone": "7"})
    data = filled(admin_client, conflict, pick_phone="device")
    decide(admin_client, conflict, pick_phone="server")
    answer = admin_client.post(address(conflict), data)
    assert "Somebody decided this while you were looking" in text_of(answer.content.decode())
    assert Decision.objects.count() == 1


@pytest.mark.slow
def test_decided_conflict_can_be_overturned(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "9"}, {"phone": "7"}, phone="1")
    decide(admin_client, conflict, pick_phone="device")
    html = read(admin_client, address(conflict))
    assert 'value="device" id="pick-phone-device" checked' in html
    decide(admin_client, conflict, pick_phone="server")
    contact.refresh_from_db()
    conflict.refresh_from_db()
    assert (contact.phone, conflict.state) == ("9", "server")
    assert text_of(read(admin_client, address(conflict))).count("admin: ") >= 2


def test_conflict_that_a_policy_decided_can_be_overturned(admin_client: Client, tablet: TestDevice) -> None:
    customer = new_customer(name="Alfreds Futterkiste", city="Berlin")
    Customer.objects.update(city="Potsdam")
    tablet.push(update(str(customer.pk), 1, "customer", city="Bonn"))
    conflict = Conflict.objects.get()
    assert "The policy “server wins” decided it" in text_of(read(admin_client, address(conflict)))
    answer = decide(admin_client, conflict, pick_address="device")
    assert answer.status_code == 302, text_of(answer.content.decode())
    customer.refresh_from_db()
    assert customer.city == "Bonn"


def test_fields_of_a_unit_are_picked_together(admin_client: Client, tablet: TestDevice) -> None:
    customer = new_customer(name="Alfreds Futterkiste", address="Obere Str. 57", city="Berlin")
    Customer.objects.update(address="Obere Str. 58")
    tablet.push(update(str(customer.pk), 1, "customer", city="Bonn"))
    html = read(admin_client, address(Conflict.objects.get()))
    assert html.count('data-block="pick-address" tabindex') == 1
    assert 'name="pick-city"' not in html


def test_edit_of_a_deleted_row_brings_it_back(admin_client: Client, tablet: TestDevice) -> None:
    product = Product.objects.create(code="1", name="Chai", category="Tea", unit_cost=3)
    Product.objects.all().delete()
    tablet.push(update(str(product.pk), 1, "product", category="Drinks"))
    conflict = Conflict.objects.get()
    assert "Leave the product deleted" in text_of(read(admin_client, address(conflict)))
    answer = decide(admin_client, conflict, whole_row="device")
    assert answer.status_code == 302, text_of(answer.content.decode())
    back = Product.objects.get()
    assert (back.pk, back.category, back.name, back.unit_cost) == (product.pk, "Drinks", "Chai", Decimal(3))


def test_row_that_a_device_deleted_is_kept_or_goes(admin_client: Client, tablet: TestDevice) -> None:
    contact = Contact.objects.create(first_name="Maria", phone="1")
    Contact.objects.update(phone="9")
    tablet.push(delete(str(contact.pk), 1))
    conflict = Conflict.objects.get()
    told = text_of(read(admin_client, address(conflict)))
    assert "deleted this contact while it was offline" in told
    assert "Phone: 1 → 9" in told
    assert decide(admin_client, conflict, whole_row="device").status_code == 302
    assert not Contact.objects.exists()
    assert decide(admin_client, conflict, whole_row="server").status_code == 302
    assert Contact.objects.get().phone == "9"


@pytest.mark.parametrize("side", ["server", "device"])
def test_all_of_a_side_is_picked_without_a_script(admin_client: Client, tablet: TestDevice, side: str) -> None:
    _, conflict = met(tablet, {"phone": "9", "title": "Boss"}, {"phone": "7", "title": "Chief"})
    data = filled(admin_client, conflict) | {"_pick": side}
    del data["_save"]
    html = " ".join(admin_client.post(address(conflict), data).content.decode().split())
    for name in ("phone", "title"):
        assert f'value="{side}" id="pick-{name}-{side}" checked' in html
    assert not Decision.objects.exists()


def test_next_conflict_follows_the_list_that_it_came_from(admin_client: Client, tablet: TestDevice) -> None:
    made = [met(tablet, {"phone": "9"}, {"phone": "7"})[1] for _ in range(2)]
    met(TestDevice(), {"phone": "9"}, {"phone": "7"})
    made.append(met(tablet, {"phone": "9"}, {"phone": "7"})[1])
    filters = f"_changelist_filters=device%3D{tablet.id}"
    data = filled(admin_client, made[2], pick_phone="device") | {"_next": "1"}
    answer = admin_client.post(f"{address(made[2])}?{filters}", data)
    assert answer["Location"] == f"{address(made[1])}?{filters}"
    assert "1 of 2" in text_of(read(admin_client, answer["Location"]))


def test_undo_of_a_decision_puts_the_value_back(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "9"}, {"phone": "7"})
    answer = admin_client.post(address(conflict), filled(admin_client, conflict, pick_phone="device"), follow=True)
    undo = f"/admin/sync/conflict/undo/{Decision.objects.get().pk}/"
    assert undo in answer.content.decode()
    assert "Phone: 7 → 9" in text_of(read(admin_client, undo))
    assert admin_client.post(undo)["Location"] == address(conflict)
    contact.refresh_from_db()
    conflict.refresh_from_db()
    assert (contact.phone, conflict.state) == ("9", "open")


def test_undo_says_what_could_not_be_undone(admin_client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "9"}, {"phone": "7"})
    decide(admin_client, conflict, pick_phone="device")
    Contact.objects.update(phone="11")
    told = text_of(admin_client.post(f"/admin/sync/conflict/undo/{Decision.objects.get().pk}/").content.decode())
    assert "This was changed since" in told
    contact.refresh_from_db()
    assert contact.phone == "11"


# --- who may

SEES = ("view_conflict", "view_contact")


def test_who_may_only_see_decides_nothing(client: Client, tablet: TestDevice) -> None:
    contact, conflict = met(tablet, {"phone": "9"}, {"phone": "7"})
    client.force_login(somebody("ana", *SEES))
    html = read(client, address(conflict))
    assert "but not decide it" in text_of(html)
    assert 'name="_save"' not in html
    assert client.post(address(conflict), filled(client, conflict, pick_phone="device")).status_code == 403
    assert client.get(f"/admin/sync/conflict/undo/{conflict.pk}/").status_code == 403
    contact.refresh_from_db()
    assert contact.phone == "9"


@pytest.mark.parametrize("permissions", [(), ("view_conflict",), ("view_contact",), ("change_conflict", "view_order")])
def test_who_may_not_see_the_row_sees_nothing_of_it(
    client: Client, tablet: TestDevice, permissions: tuple[str, ...]
) -> None:
    _, conflict = met(tablet, {"phone": "9"}, {"phone": "secret-7"})
    client.force_login(somebody("ana", *permissions))
    assert client.get(address(conflict)).status_code == 403
    assert client.post(address(conflict), {"_save": "1"}).status_code == 403
    answer = client.get("/admin/sync/conflict/?q=secret")
    assert b"secret-7" not in answer.content
    assert b"Maria" not in answer.content


def test_name_of_a_row_that_the_user_may_not_see_is_not_told(client: Client, tablet: TestDevice) -> None:
    customer = new_customer(name="Alfreds Futterkiste")
    _, conflict = met(tablet, {"phone": "9"}, {"phone": "7", "customer_id": str(customer.pk)})
    client.force_login(somebody("ana", *SEES, "change_conflict", "change_contact"))
    assert "Alfreds" not in read(client, address(conflict))
    client.force_login(somebody("eva", *SEES, "change_conflict", "change_contact", "view_customer"))
    assert "Alfreds" in read(client, address(conflict))


def test_delete_needs_its_own_permission(client: Client, tablet: TestDevice) -> None:
    contact = Contact.objects.create(first_name="Maria", phone="1")
    Contact.objects.update(phone="9")
    tablet.push(delete(str(contact.pk), 1))
    conflict = Conflict.objects.get()
    client.force_login(somebody("ana", *SEES, "change_conflict", "change_contact"))
    assert decide(client, conflict, whole_row="device").status_code == 403
    assert Contact.objects.exists()


def test_page_of_a_long_text_takes_the_same_queries(
    admin_client: Client, tablet: TestDevice, django_assert_max_num_queries: Any
) -> None:
    long = "every word counts " * 550
    _, conflict = met(tablet, {"title": "a", "note": long.replace("word", "line", 9)}, {"title": "b"}, note=long)
    for number in range(12):
        Contact.objects.update(phone=str(number))
    with django_assert_max_num_queries(30):
        read(admin_client, address(conflict))
