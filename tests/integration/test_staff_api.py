"""The staff API: who may call, what they see, every action, and pages that cost the same wherever they are."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from devices.models import Device
from entities.models import Contact, Customer, Product
from sync.models import Conflict, Decision, Rejection
from tests.integration.conflict_support import conflict, disputed, rev_of
from tests.integration.staff_support import Staff
from tests.integration.sync_support import TestDevice, contact, create, employee, history, problem

pytestmark = pytest.mark.django_db
CONTACTS = ["sync.view_conflict", "sync.view_rejection", "entities.view_contact"]
DECIDES = [*CONTACTS, "sync.change_conflict", "sync.change_rejection", "entities.change_contact"]


def rejection(entity: str = "contact") -> Rejection:
    device = TestDevice()
    device.push({**create(entity, hat=1)})
    return Rejection.objects.get(device=device.device.id)


def ids(answer: Any) -> list[str]:
    return [each["id"] for each in answer["results"]]


# --- who may call ---


def test_staff_api_is_for_staff_only() -> None:
    assert problem(Client().get("/api/conflicts")) == (401, "login_required")
    assert Client().get("/api/conflicts").headers["WWW-Authenticate"] == "Token"
    wrong = {"authorization": "Token wrong"}
    assert problem(Client().get("/api/conflicts", headers=wrong)) == (401, "login_required")
    assert problem(Client().get("/api/conflicts", headers=TestDevice().headers)) == (401, "login_required")
    nobody = Staff(*DECIDES, is_staff=False)
    assert problem(nobody.ask("conflicts")) == (403, "forbidden")
    gone = Staff()
    User.objects.filter(pk=gone.user.pk).update(is_active=False)
    assert problem(gone.ask("conflicts")) == (401, "login_required")


def test_session_may_read_and_writes_with_its_csrf_token_only() -> None:
    row, found = disputed(TestDevice())
    client = Client(enforce_csrf_checks=True)
    client.force_login(Staff().user)
    assert client.get("/api/conflicts").status_code == 200
    body = {"values": {}, "rev": 2}
    refused = client.post(f"/api/conflicts/{found.pk}/resolve", body, "application/json")
    assert problem(refused) == (403, "forbidden")
    assert not Decision.objects.exists()
    client.get("/admin/password_change/")
    token = client.cookies["csrftoken"].value
    done = client.post(f"/api/conflicts/{found.pk}/resolve", body, "application/json", headers={"X-CSRFToken": token})
    assert done.status_code == 200
    assert rev_of(row) == 2


def test_address_that_is_none_is_a_problem() -> None:
    staff = Staff()
    for path in ("nothing", "conflicts/1", f"conflicts/{uuid4()}", f"devices/{uuid4()}", f"quarantine/{uuid4()}"):
        assert problem(staff.ask(path)) == (404, "not_found"), path
    assert problem(staff.send("conflicts", {})) == (405, "method_not_allowed")
    for path in ("/api/conflicts", "/api/decisions/undo"):
        assert problem(Client().options(path, headers=staff.headers)) == (405, "method_not_allowed")


def test_what_may_not_be_seen_is_not_there_and_what_may_not_be_done_is_forbidden() -> None:
    _, found = disputed(TestDevice())
    other = conflict(TestDevice(), employee(1), {"phone": "1"}, {"phone": "2"}, entity="employee")
    refused = rejection()
    looks, blind, decides = Staff(*CONTACTS), Staff("sync.view_conflict"), Staff(*DECIDES)
    assert ids(looks.get("conflicts")) == [str(found.pk)]
    assert ids(blind.get("conflicts")) == []
    body = {"values": {}, "rev": 2}
    for staff, id, code in ((blind, found, 404), (looks, other, 404), (looks, found, 403), (decides, other, 404)):
        assert staff.send(f"conflicts/{id.pk}/resolve", body).status_code == code
        if code == 404:
            assert staff.ask(f"conflicts/{id.pk}").status_code == code
            assert staff.send("conflicts/resolve", {"ids": [str(id.pk)], "side": "device"}).status_code == code
            assert staff.send("conflicts/preview", {"ids": [str(id.pk)], "side": "device"}).status_code == code
    assert problem(blind.ask(f"quarantine/{refused.pk}")) == (404, "not_found")
    assert problem(blind.send(f"quarantine/{refused.pk}/replay", {})) == (404, "not_found")
    assert problem(looks.send(f"quarantine/{refused.pk}/replay", {})) == (403, "forbidden")
    assert problem(looks.send("quarantine/discard", {"ids": [str(refused.pk)], "comment": "x"})) == (403, "forbidden")
    # It is a create, for which changing contacts is not enough.
    assert problem(decides.send(f"quarantine/{refused.pk}/replay", {})) == (403, "forbidden")
    assert problem(decides.send(f"conflicts/{found.pk}/resolve", {**body, "values": None})) == (403, "forbidden")
    assert problem(looks.send(f"rows/contact/{found.row_id}/restore", {"version": 1, "rev": 2})) == (403, "forbidden")
    assert problem(looks.send(f"rows/customer/{uuid4()}/restore", {"version": 1, "rev": 2})) == (404, "not_found")
    assert not Decision.objects.exists()


def test_devices_and_history_are_for_those_who_may_see_them() -> None:
    device, row = TestDevice(), contact()
    looks, keeper = Staff(*CONTACTS), Staff("devices.view_device")
    assert ids(looks.get("devices")) == []
    assert problem(looks.ask(f"devices/{device.id}")) == (404, "not_found")
    assert ids(keeper.get("devices")) == [device.id]
    assert problem(keeper.send(f"devices/{device.id}/revoke", {})) == (403, "forbidden")
    assert [each["rev"] for each in looks.get("history", row=row)["results"]] == [1]
    assert keeper.get("history", row=row)["results"] == []


# --- lists ---


def test_entities_are_those_that_may_be_seen_with_what_waits() -> None:
    disputed(TestDevice())
    rejection()
    told = {each["name"]: each for each in Staff().get("entities")["results"]}
    assert (told["contact"]["open_conflicts"], told["contact"]["open_rejections"]) == (1, 1)
    assert (told["employee"]["writable"], told["employee"]["open_conflicts"]) == (False, 0)
    few = Staff("entities.view_contact").get("entities")["results"]
    assert [(each["name"], each["open_conflicts"]) for each in few] == [("contact", None)]


def test_lists_are_filtered_and_what_is_no_filter_value_is_refused() -> None:
    staff, device = Staff(), TestDevice()
    _, found = disputed(device)
    _, other = disputed(TestDevice(), state="server", policy="server_wins")
    for query, wanted in (
        ({"state": "open"}, [found]),
        ({"device": device.id}, [found]),
        ({"policy": "server_wins"}, [other]),
        ({"row": str(other.row_id)}, [other]),
        ({"entity": "customer"}, []),
        ({"created_after": "2999-01-01T00:00:00Z"}, []),
        ({"created_before": "1999-01-01T00:00:00-21:53"}, []),
        ({"mutation": str(found.mutation), "op": "update"}, [found]),
    ):
        assert ids(staff.get("conflicts", **query)) == [str(each.pk) for each in wanted], query
    for query in ({"state": "x"}, {"device": "x"}, {"created_after": "x"},
                  {"created_after": "0001-01-01T00:00:00+10:00"}, {"policy": "\x00"}, {"ordering": "row_id"},
                  {"limit": "0"}, {"limit": "x"}, {"cursor": "x"}):  # fmt: skip
        assert problem(staff.ask("conflicts", **query)) == (400, "invalid_request"), query
    assert problem(staff.ask("history")) == (400, "invalid_request")
    bad = rejection()
    assert ids(staff.get("quarantine", cause="unknown_field", state="open")) == [str(bad.pk)]
    assert ids(staff.get("quarantine", cause="unique")) == []
    Device.objects.filter(pk=device.device.pk).update(name="Tablet 7", last_seen_at="2026-01-01T00:00:00Z")
    assert ids(staff.get("devices", name="tablet", revoked="false", silent_since="2026-02-01T00:00:00Z")) == [device.id]
    assert ids(staff.get("devices", revoked="true")) == []


@pytest.mark.parametrize("ordering", ["created_at", "-created_at"])
def test_pages_tell_each_record_once_also_where_many_are_of_one_moment(ordering: str) -> None:
    staff, device = Staff(), TestDevice()
    made = [disputed(device)[1] for _ in range(7)]
    Conflict.objects.filter(pk__in=[each.pk for each in made[:5]]).update(created_at=made[0].created_at)
    told: list[str] = []
    cursor = None
    while True:
        page = staff.get("conflicts", limit=2, ordering=ordering, **({"cursor": cursor} if cursor else {}))
        told += ids(page)
        if page["cursor"] is None:
            break
        cursor = page["cursor"]
    assert len(told) == 7
    sign = ordering.removesuffix("created_at")
    assert told == [str(pk) for pk in Conflict.objects.order_by(ordering, f"{sign}id").values_list("pk", flat=True)]
    other = {"created_at": "-created_at", "-created_at": "created_at"}[ordering]
    assert problem(staff.ask("conflicts", cursor=cursor, ordering=other)) == (400, "invalid_request")


def test_pages_of_devices_and_of_history_go_on_from_a_cursor() -> None:
    staff, row = Staff(), contact()
    for name in "bc":
        Contact.objects.filter(pk=row).update(first_name=name)
    TestDevice(), TestDevice()
    for path, query in (("devices", {}), ("history", {"row": row})):
        first = staff.get(path, limit=1, **query)
        second = staff.get(path, limit=1, cursor=first["cursor"], **query)
        assert first["results"] != second["results"]


@pytest.mark.slow
def test_page_costs_the_same_queries_however_many_are_on_it() -> None:
    staff, device = Staff(), TestDevice()
    for path in ("conflicts", "quarantine", "decisions", "devices", "entities"):
        counts = []
        for _ in range(2):
            for _ in range(3):
                _, found = disputed(device)
                rejection()
                Decision.objects.create(conflict=found, by=staff.author, state="server", state_before="open")
            with CaptureQueriesContext(connection) as counted:
                staff.get(path)
            counts.append(len(counted))
        assert counts[0] == counts[1] <= 5, path


# --- actions ---


def test_conflict_is_shown_decided_and_undone() -> None:
    staff = Staff()
    row, found = disputed(TestDevice())
    shown = staff.get(f"conflicts/{found.pk}")
    assert (shown["device"], shown["server"], shown["rev"], shown["seen"]) == (
        {"first_name": "Ina"}, {"first_name": "Eva"}, 2, 0,
    )  # fmt: skip
    body = {"values": shown["device"], "rev": shown["rev"], "seen": shown["seen"], "comment": "She rang"}
    decision = staff.post(f"conflicts/{found.pk}/resolve", body)
    assert (decision["state"], decision["by"], decision["after"]) == ("device", staff.author, {"first_name": "Ina"})
    assert history(row)[-1][2] == staff.author
    assert staff.get(f"conflicts/{found.pk}")["decisions"] == [decision]
    assert ids(staff.get("decisions", conflict=str(found.pk), undone="false")) == [decision["id"]]
    undone = staff.post("decisions/undo", {"ids": [decision["id"]]})
    assert undone == {"undone": [decision["id"]], "kept": []}
    assert Contact.objects.get(pk=row).first_name == "Eva"
    assert staff.post("decisions/undo", {"ids": [decision["id"]]})["kept"][0]["errors"][0]["code"] == "already_undone"


def test_decision_on_what_was_not_shown_is_a_409_with_the_row_as_it_is() -> None:
    staff = Staff()
    row, found = disputed(TestDevice())
    Contact.objects.filter(pk=row).update(phone="2")
    answer = staff.send(f"conflicts/{found.pk}/resolve", {"values": {}, "rev": 2})
    assert problem(answer) == (409, "conflict_moved")
    assert (answer.json()["rev"], answer.json()["row"]["phone"]) == (3, "2")


def test_decision_that_breaks_a_rule_is_a_422_with_its_fields() -> None:
    staff = Staff()
    _, found = disputed(TestDevice())
    answer = staff.send(f"conflicts/{found.pk}/resolve", {"values": {"first_name": ""}, "rev": 2})
    assert problem(answer) == (422, "change_refused")
    assert [(each["field"], each["code"]) for each in answer.json()["errors"]] == [("first_name", "invalid_value")]


def test_bulk_is_previewed_decided_and_undone_together() -> None:
    staff, device = Staff(), TestDevice()
    (row, first), (moved, second) = disputed(device), disputed(device)
    Contact.objects.filter(pk=moved).update(first_name="Eve")
    body = {"ids": [str(first.pk), str(second.pk)], "side": "device"}
    previews = staff.post("conflicts/preview", body)["previews"]
    assert [[each["code"] for each in preview["errors"]] for preview in previews] == [[], ["moved"]]
    assert previews[0]["after"] == {"first_name": "Ina"}
    bulk = staff.post("conflicts/resolve", body)
    assert [each["conflict"] for each in bulk["decided"]] == [str(first.pk)]
    assert [each["id"] for each in bulk["refused"]] == [str(second.pk)]
    assert len(staff.post("decisions/undo", {"bulk": bulk["bulk"]})["undone"]) == 1
    assert Contact.objects.get(pk=row).first_name == "Eva"


def test_quarantine_is_shown_replayed_and_discarded() -> None:
    staff, first, second = Staff(), rejection(), rejection()
    shown = staff.get(f"quarantine/{first.pk}")
    assert (shown["body"]["set"], shown["goes_along"]) == ({"hat": 1}, [])
    assert problem(staff.send(f"quarantine/{first.pk}/replay", {})) == (422, "change_refused")
    done = staff.post(f"quarantine/{first.pk}/replay", {"set": {"first_name": "Ana"}})
    assert [each["status"] for each in done["results"]] == ["applied"]
    assert Contact.objects.get().first_name == "Ana"
    assert problem(staff.send("quarantine/discard", {"ids": [str(second.pk)]})) == (400, "invalid_request")
    assert staff.post("quarantine/discard", {"ids": [str(second.pk)], "comment": "a test"}) == {"discarded": 1}
    assert staff.get(f"quarantine/{second.pk}")["rejection"]["state"] == "discarded"


def test_device_is_shown_and_revoked_with_a_wipe() -> None:
    staff, device = Staff(), TestDevice()
    assert staff.get(f"devices/{device.id}")["revoked_at"] is None
    assert staff.post(f"devices/{device.id}/revoke", {"wipe": True})["wipe"] is True
    assert device.ask(None).json()["wipe"] is True


def test_row_is_made_what_it_was() -> None:
    staff = Staff()
    row = str(Product.objects.create(code="A", name="A", unit_cost="1").pk)
    Product.objects.filter(pk=row).update(name="B")
    assert staff.post(f"rows/product/{row}/restore", {"version": 1, "rev": 2}) == {"rev": 3}
    assert problem(staff.send(f"rows/product/{row}/restore", {"version": 1, "rev": 2})) == (409, "conflict_moved")
    assert problem(staff.send(f"rows/product/{row}/restore", {"version": 9, "rev": 3})) == (422, "change_refused")
    assert problem(staff.send(f"rows/hat/{row}/restore", {"version": 1, "rev": 3})) == (404, "not_found")
    assert staff.get("history", row=row)["results"][0]["author"] == staff.author
    assert "unit_cost" not in str(staff.get("history", row=row))


def test_row_comes_back_only_by_who_may_add_one() -> None:
    row = str(Contact.objects.create(first_name="Ana").pk)
    Contact.objects.filter(pk=row).delete()
    body = {"version": 1, "rev": 2}
    assert problem(Staff(*DECIDES).send(f"rows/contact/{row}/restore", body)) == (403, "forbidden")
    assert Staff(*DECIDES, "entities.add_contact").post(f"rows/contact/{row}/restore", body) == {"rev": 3}


def test_bodies_that_are_not_understood_are_refused() -> None:
    staff = Staff()
    _, found = disputed(TestDevice())
    path = f"conflicts/{found.pk}/resolve"
    assert problem(staff.send(path, "{")) == (400, "invalid_json")
    assert problem(staff.send(path, {"values": {}, "rev": 2, "hat": 1})) == (400, "unknown_field")
    assert problem(staff.send(path, {"rev": 2})) == (400, "invalid_request")
    assert problem(staff.send("decisions/undo", {})) == (400, "invalid_request")
    assert problem(staff.send("conflicts/resolve", {"ids": [], "side": "device"})) == (400, "invalid_request")
    assert problem(staff.send("conflicts/resolve", {"ids": [str(found.pk)], "side": "x"})) == (400, "invalid_request")
    assert Customer.objects.count() == 0
