"""What administrators see of sync, and who is the author of what they change."""

import json
import uuid
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client
from django.urls import path

from devices.enroll import create_code, enroll
from devices.models import Device
from entities.models import Contact, Customer, Order, OrderLine, Product
from sync.declare import declarations
from sync.models import Conflict, History
from sync.pages.entities import EntityAdmin, register
from sync.push import push
from sync.states import Pusher
from tests.integration.pages_support import EVIL, shown
from tests.integration.sync_support import SHARED, new_customer

pytestmark = pytest.mark.django_db
BOSS = "user:admin"  # the user of `admin_client`


@pytest.fixture
def device() -> Device:
    return enroll(create_code(SHARED), f"Tablet {EVIL}", "android 16", "1.4.0", "")[0]


@pytest.fixture
def customer() -> Customer:
    return new_customer(name="Alfreds Futterkiste", city="Berlin")


def authors(row: Any) -> list[tuple[str, str]]:
    found = History.objects.filter(row_id=getattr(row, "pk", row)).order_by("rev")
    return list(found.values_list("op", "author"))


def pushed(device: Device, **mutation: Any) -> dict[str, Any]:
    body = {"mutations": [{"id": str(uuid.uuid4()), "base": None, **mutation}]}
    answer: dict[str, Any] = json.loads(push(Pusher(device.id, device.scopes), json.dumps(body).encode()))
    result: dict[str, Any] = answer["results"][0]
    return result


# --- entities


@pytest.mark.slow
def test_every_declared_model_has_a_page(admin_client: Client) -> None:
    for declaration in declarations():
        meta = declaration.model._meta
        shown(admin_client, f"/admin/{meta.app_label}/{meta.model_name}/")
        shown(admin_client, f"/admin/{meta.app_label}/{meta.model_name}/add/")


def test_row_added_in_the_admin_has_the_user_as_its_author(admin_client: Client) -> None:
    answer = admin_client.post("/admin/entities/customer/add/", {"name": "Ernst Handel"})
    assert answer.status_code == 302
    assert authors(Customer.objects.get()) == [("insert", BOSS)]


def test_row_changed_in_the_admin_has_the_user_as_its_author(admin_client: Client, customer: Customer) -> None:
    answer = admin_client.post(f"/admin/entities/customer/{customer.pk}/change/", {"name": "Ernst Handel"})
    assert answer.status_code == 302
    assert authors(customer)[1:] == [("update", BOSS)]


def test_row_deleted_in_the_admin_has_the_user_as_its_author(admin_client: Client, customer: Customer) -> None:
    contact = Contact.objects.create(customer=customer, first_name="Maria")
    admin_client.post(f"/admin/entities/customer/{customer.pk}/delete/", {"post": "yes"})
    assert authors(customer)[1:] == authors(contact)[1:] == [("delete", BOSS)]


def test_rows_deleted_together_in_the_admin_have_the_user_as_their_author(
    admin_client: Client, customer: Customer
) -> None:
    data = {"action": "delete_selected", "_selected_action": [str(customer.pk)], "post": "yes"}
    admin_client.post("/admin/entities/customer/", data)
    assert not Customer.objects.exists()
    assert authors(customer)[1:] == [("delete", BOSS)]


class ContactInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Contact
    fields = ("first_name",)
    extra = 0


class CustomerAdmin(EntityAdmin):
    list_display = ("id", "name")
    list_editable = ("name",)
    list_display_links = ("id",)
    inlines = (ContactInline,)
    actions = ("shout",)

    def shout(self, _request: HttpRequest, customers: Any) -> None:
        customers.update(name="ERNST HANDEL")


own_site = admin.AdminSite()
own_site.register(Customer, CustomerAdmin)
urlpatterns = [path("admin/", own_site.urls)]


@pytest.mark.slow
def test_page_of_a_deployment_stays_registered() -> None:
    admin.site.unregister(Customer)
    try:
        admin.site.register(Customer, CustomerAdmin)
        register()
        assert isinstance(admin.site.get_model_admin(Customer), CustomerAdmin)
    finally:
        admin.site.unregister(Customer)
        register()


@pytest.mark.urls(__name__)
@pytest.mark.parametrize(
    ("address", "data"),
    [
        # list_editable
        ("/admin/entities/customer/", {"form-0-name": "ERNST HANDEL", "_save": "Save"}),
        # an action
        ("/admin/entities/customer/", {"action": "shout"}),
    ],
)
def test_rows_changed_in_the_list_have_the_user_as_their_author(
    address: str, data: dict[str, str], admin_client: Client, customer: Customer
) -> None:
    forms = {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-id": str(customer.pk)}
    admin_client.post(address, forms | data | {"_selected_action": str(customer.pk)})
    customer.refresh_from_db()
    assert customer.name == "ERNST HANDEL"
    assert authors(customer)[1:] == [("update", BOSS)]


@pytest.mark.urls(__name__)
def test_rows_of_an_inline_have_the_user_as_their_author(admin_client: Client, customer: Customer) -> None:
    data = {"name": customer.name, "contact_set-TOTAL_FORMS": "1", "contact_set-INITIAL_FORMS": "0"}
    data |= {"contact_set-0-first_name": "Maria", "contact_set-0-customer": str(customer.pk)}
    admin_client.post(f"/admin/entities/customer/{customer.pk}/change/", data)
    assert authors(Contact.objects.get()) == [("insert", BOSS)]


def test_author_ends_with_the_request(admin_client: Client, customer: Customer) -> None:
    admin_client.post(f"/admin/entities/customer/{customer.pk}/change/", {"name": "Ernst Handel"})
    customer.save()
    Customer.objects.update(name="Alfreds Futterkiste")
    assert [author for _, author in authors(customer)][1] == BOSS
    assert authors(customer)[2][1].startswith("sql:")


def test_user_without_permission_changes_nothing(client: Client, customer: Customer) -> None:
    client.force_login(User.objects.create_user("ana", is_staff=True))
    for page in ("change/", "delete/", "history/"):
        assert client.get(f"/admin/entities/customer/{customer.pk}/{page}").status_code == 403
    assert client.post(f"/admin/entities/customer/{customer.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Customer.objects.exists()


@pytest.mark.parametrize("term", ["Alfreds", "berlin", "the id"])
def test_rows_are_found_by_text_and_by_id(term: str, admin_client: Client, customer: Customer) -> None:
    Customer.objects.create(name="Ernst Handel")
    text = shown(admin_client, f"/admin/entities/customer/?q={customer.pk if term == 'the id' else term}")
    assert "Alfreds Futterkiste" in text
    assert "Ernst Handel" not in text


def test_list_of_lines_does_not_query_once_a_row(
    admin_client: Client, customer: Customer, django_assert_max_num_queries: Any
) -> None:
    product = Product.objects.create(code="1", name="Chai")
    order = Order.objects.create(customer=customer, ordered_on="2026-11-21")
    OrderLine.objects.bulk_create(OrderLine(order=order, product=product, unit_price=18) for _ in range(20))
    with django_assert_max_num_queries(8):
        shown(admin_client, "/admin/entities/orderline/")


# --- the history of a row


def test_history_of_a_row_shows_who_changed_what(admin_client: Client, device: Device, customer: Customer) -> None:
    pushed(device, entity="customer", row=str(customer.pk), op="update", base=1, set={"city": EVIL})
    admin_client.post(f"/admin/entities/customer/{customer.pk}/change/", {"name": "Ernst Handel"})
    text = shown(admin_client, f"/admin/entities/customer/{customer.pk}/history/")
    for told in (device.name, "<strong>admin</strong>", "Berlin", EVIL, "Alfreds Futterkiste", "Ernst Handel"):
        assert told in text


def test_history_of_a_deleted_row_is_still_there(admin_client: Client, customer: Customer) -> None:
    pk = customer.pk
    customer.delete()
    text = shown(admin_client, f"/admin/entities/customer/{pk}/history/")
    assert "was deleted" in text
    assert "Alfreds Futterkiste" in text


def test_history_of_a_row_that_never_was_says_so(admin_client: Client) -> None:
    assert "there never was such a row" in shown(admin_client, f"/admin/entities/customer/{uuid.uuid4()}/history/")
    assert admin_client.get("/admin/entities/customer/nonsense/history/").status_code == 404


# --- conflicts and rejections


@pytest.fixture
def conflict(device: Device, customer: Customer) -> Conflict:
    Customer.objects.update(city="Potsdam")
    mutation = {"entity": "customer", "row": str(customer.pk), "op": "update", "base": 1, "set": {"city": EVIL}}
    assert pushed(device, **mutation)["status"] == "conflict"
    return Conflict.objects.get()


def test_conflict_cannot_be_added_or_deleted(admin_client: Client, conflict: Conflict) -> None:
    assert admin_client.get("/admin/sync/conflict/add/").status_code == 403
    assert admin_client.post(f"/admin/sync/conflict/{conflict.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.usefixtures("conflict")
def test_list_names_the_device(admin_client: Client, device: Device) -> None:
    assert device.name in shown(admin_client, "/admin/sync/conflict/")


@pytest.mark.slow
@pytest.mark.usefixtures("conflict")
def test_device_leads_to_its_conflicts_and_rejections(admin_client: Client, device: Device) -> None:
    text = shown(admin_client, f"/admin/devices/device/{device.pk}/change/")
    for kind in ("conflict", "rejection"):
        address = f"/admin/sync/{kind}/?device={device.pk}"
        assert address in text
        shown(admin_client, address)
