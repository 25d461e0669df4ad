"""The admin's list of conflicts, and decisions about many of them."""

from typing import Any

import pytest
from django.test import Client

from entities.models import Contact, Product
from sync.models import Conflict, Decision
from tests.integration.conflict_pages_support import LIST, address, decide, met, read, somebody, text_of
from tests.integration.sync_support import TestDevice, delete, new_customer, update

pytestmark = pytest.mark.django_db
SEES = ("view_conflict", "change_conflict", "view_contact", "change_contact")


@pytest.fixture
def tablet() -> TestDevice:
    made = TestDevice()
    type(made.device).objects.filter(pk=made.device.pk).update(name="Tablet 3")
    return made


def many(tablet: TestDevice, count: int) -> list[Conflict]:
    return [met(tablet, {"phone": "9"}, {"phone": f"7-{n}"}, last_name=f"No {n}")[1] for n in range(count)]


def act(client: Client, side: str, *conflicts: Conflict, **data: Any) -> Any:
    chosen = {"action": side, "_selected_action": [str(conflict.pk) for conflict in conflicts]}
    return client.post(f"{LIST}?{data.pop('query', '')}", chosen | data)


def confirm(client: Client, preview: Any, **data: Any) -> Any:
    """What the preview's form sends."""
    context = preview.context
    return act(
        client,
        context["action"],
        *Conflict.objects.filter(pk__in=context["ids"]),
        confirmed="1",
        at=context["at"],
        **data,
    )


def test_line_says_what_each_side_did(admin_client: Client, tablet: TestDevice) -> None:
    met(tablet, {"phone": "030-9"}, {"phone": "030-7"}, phone="030-1")
    assert "Phone: 030-1 → 030-9 on the server, 030-7 from Tablet 3" in text_of(read(admin_client, LIST))


def test_line_says_which_side_deleted_the_row(admin_client: Client, tablet: TestDevice) -> None:
    product = Product.objects.create(code="1", name="Chai", category="Tea")
    Product.objects.all().delete()
    contact = Contact.objects.create(first_name="Maria", phone="1")
    Contact.objects.update(phone="9")
    tablet.push(update(str(product.pk), 1, "product", category="Drinks"), delete(str(contact.pk), 1))
    told = text_of(read(admin_client, LIST))
    assert "Chai product Deleted on the server, changed on Tablet 3" in told
    assert "Deleted on Tablet 3, changed on the server Phone: 1 → 9" in told


def test_line_of_a_long_text_shows_where_it_differs(admin_client: Client, tablet: TestDevice) -> None:
    long = "x" * 300
    met(tablet, {"title": "a"}, {"title": "b"})
    conflict = Conflict.objects.get()
    conflict.base, conflict.server = {"note": long}, {"note": f"{long[:200]} there"}
    conflict.fields, conflict.device_values = ["note"], {"set": {"note": f"{long[:200]} here"}}
    conflict.save()
    told = text_of(read(admin_client, LIST))
    assert "there on the server" in told
    assert long[:100] not in told


@pytest.mark.slow
def test_list_takes_the_same_queries_for_many(
    admin_client: Client, tablet: TestDevice, django_assert_max_num_queries: Any
) -> None:
    customer = new_customer(name="Alfreds Futterkiste")
    many(tablet, 30)
    Conflict.objects.update(server={"phone": "9", "customer_id": str(customer.pk)})
    with django_assert_max_num_queries(20):
        assert read(admin_client, LIST).count('class="row-name"') == 30


def test_tabs_count_what_the_filters_leave(admin_client: Client, tablet: TestDevice) -> None:
    first, *_ = many(tablet, 3)
    many(TestDevice(), 2)
    decide(admin_client, first, pick_phone="device")
    told = text_of(read(admin_client, f"{LIST}?device={tablet.id}&state=open"))
    assert "Open 2 Server kept 0 Device taken 1 Mixed 0 All 3" in told


@pytest.mark.parametrize(
    "query",
    [
        "state=%00",
        "state=nonsense",
        "entity=%00",
        "entity=nothing",
        "device=%00",
        "device=1",
        "field=%00",
        "policy=%00",
        "age=%00",
        "q=%00",
        "q=%22%5C%25_",
        "p=nonsense",
        "foo=bar",
        "state=open&state=server",
    ],
)
def test_no_address_made_by_hand_ends_in_an_error(admin_client: Client, tablet: TestDevice, query: str) -> None:
    (conflict,) = many(tablet, 1)
    assert admin_client.get(f"{LIST}?{query}").status_code in {200, 302}
    filters = query.replace("%", "%25").replace("=", "%3D").replace("&", "%26")
    assert admin_client.get(f"{address(conflict)}?_changelist_filters={filters}").status_code == 200


# --- many at once


def test_preview_writes_nothing(admin_client: Client, tablet: TestDevice) -> None:
    conflicts = many(tablet, 3)
    told = text_of(act(admin_client, "take_device", *conflicts).content.decode())
    assert "3 rows will change as shown" in told
    assert "Phone: 9 → 7-0" in told
    assert not Decision.objects.exists()
    assert not Contact.objects.exclude(phone="9").exists()


def test_many_are_decided_and_undone_together(admin_client: Client, tablet: TestDevice) -> None:
    conflicts = many(tablet, 3)
    preview = act(admin_client, "take_device", *conflicts)
    answer = admin_client.get(confirm(admin_client, preview, comment="as \x00they said")["Location"])
    assert "3 conflicts decided" in text_of(answer.content.decode())
    assert {decision.comment for decision in Decision.objects.all()} == {"as they said"}
    undo = f"{LIST}undo-many/{Decision.objects.all()[0].bulk}/"
    assert undo in answer.content.decode()
    admin_client.post(undo)
    assert not Contact.objects.exclude(phone="9").exists()
    assert set(Conflict.objects.values_list("state", flat=True)) == {"open"}


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", "state=open"])
def test_what_somebody_decided_after_the_preview_stays(admin_client: Client, tablet: TestDevice, query: str) -> None:
    conflicts = many(tablet, 2)
    preview = act(admin_client, "take_device", *conflicts, query=query)
    decide(admin_client, conflicts[0], pick_phone="server")
    answer = admin_client.get(confirm(admin_client, preview, query=query)["Location"])
    assert "Maria No 0 (somebody decided it meanwhile)" in text_of(answer.content.decode())
    conflicts[0].refresh_from_db()
    assert conflicts[0].state == "server"


@pytest.mark.parametrize("at", ["", "nonsense", "2026-11-21T09:00:00", "\x00"])
def test_confirmation_without_a_preview_decides_nothing(admin_client: Client, tablet: TestDevice, at: str) -> None:
    conflicts = many(tablet, 1)
    act(admin_client, "take_device", *conflicts, confirmed="1", at=at)
    assert not Decision.objects.exists()


def test_as_many_as_a_form_may_hold_are_refused_with_a_reason(
    admin_client: Client, tablet: TestDevice, settings: Any
) -> None:
    settings.SYNC_DECISIONS_MAX = 2
    answer = act(admin_client, "take_device", *many(tablet, 3))
    assert "At most 2 conflicts" in text_of(admin_client.get(answer["Location"]).content.decode())


def test_who_may_not_decide_one_of_many_is_told_which(client: Client, tablet: TestDevice) -> None:
    conflicts = many(tablet, 1)
    gone = Contact.objects.create(first_name="Ana", phone="1")
    Contact.objects.filter(pk=gone.pk).update(phone="9")
    tablet.push(delete(str(gone.pk), 1))
    client.force_login(somebody("ana", *SEES))
    preview = act(client, "take_device", *conflicts, Conflict.objects.get(op="delete"))
    assert "You have no permission for this." in text_of(preview.content.decode())
    confirm(client, preview)
    assert Contact.objects.filter(pk=gone.pk).exists()
    act(client, "take_device", Conflict.objects.get(op="delete"), confirmed="1", at=preview.context["at"])
    assert Contact.objects.filter(pk=gone.pk).exists()


def test_who_may_only_see_finds_no_action(client: Client, tablet: TestDevice) -> None:
    (conflict,) = many(tablet, 1)
    client.force_login(somebody("ana", "view_conflict", "view_contact"))
    assert 'name="action"' not in read(client, LIST)
    act(client, "take_device", conflict, confirmed="1", at="2026-11-21T09:00:00Z")
    assert not Decision.objects.exists()


def test_devices_of_what_the_user_may_not_see_are_not_named(client: Client, tablet: TestDevice) -> None:
    many(tablet, 1)
    client.force_login(somebody("ana", "view_conflict", "view_order"))
    assert "Tablet 3" not in read(client, LIST)


# --- the front page


def test_front_page_says_what_waits(admin_client: Client, tablet: TestDevice) -> None:
    many(tablet, 3)
    told = text_of(read(admin_client, "/admin/"))
    assert "Open conflicts 3 waiting for a decision; oldest just now" in told
    assert "contact 3 oldest just now" in told
    assert "Devices whose changes wait" in told


def test_front_page_shows_only_what_the_user_may_see(client: Client, tablet: TestDevice) -> None:
    many(tablet, 3)
    client.force_login(somebody("ana", "view_conflict", "view_order"))
    told = text_of(read(client, "/admin/"))
    assert "Open conflicts 0" in told
    assert "Tablet 3" not in told
    client.force_login(somebody("eva"))
    assert "Welcome" in text_of(read(client, "/admin/"))
