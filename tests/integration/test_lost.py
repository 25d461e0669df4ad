"""Devices bring back what a restore has lost: whoever comes first, the rows are what they were."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from entities.models import Contact, Product
from sync.healing import replay_waiting
from sync.models import Conflict, Rejection
from tests.integration.sync_support import Row, TestDevice, create, delete, new_id, update

pytestmark = pytest.mark.django_db(transaction=True)


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


KEPT = (
    *("entities_customer", "entities_contact", "entities_product"),
    *("sync_feed", "sync_history", "sync_result", "sync_rejection", "sync_conflict"),
)


class Backup:
    """What the tables held at a moment; put back, the server is as it was then, and a new epoch begins."""

    def __init__(self) -> None:
        for table in KEPT:
            sql(f"CREATE TEMP TABLE kept_{table} AS TABLE {table}")

    def restore(self) -> None:
        sql("SET session_replication_role = replica")
        for table in KEPT:
            sql(f"DELETE FROM {table}")
            sql(f"INSERT INTO {table} SELECT * FROM kept_{table}")
            sql(f"DROP TABLE kept_{table}")
        sql("SET session_replication_role = DEFAULT")
        sql("UPDATE sync_epoch SET database_identity = 'another'")
        TestDevice().pull()


def lost(mutation: Row, rev: int) -> Row:
    """A mutation as its device offers it."""
    return mutation | {"lost": rev}


def acknowledged(device: TestDevice, *mutations: Row) -> list[Row]:
    """The mutations as the device offers them after a restore, with the revisions that they get now."""
    results = device.push(*mutations)
    assert all(result["status"] in {"applied", "merged"} for result in results), results
    return [lost(mutation, result["rev"]) for mutation, result in zip(mutations, results, strict=True)]


def of(row: str) -> dict[str, Any] | None:
    found = Contact.objects.filter(pk=row).values("first_name", "last_name", "title", "phone").first()
    return None if found is None else {**found}


def unknown(device: TestDevice, *ids: str) -> list[str]:
    answer = Client().post("/sync/unknown", {"ids": ids}, "application/json", headers=device.headers)
    assert answer.status_code == 200, answer.content
    found: list[str] = answer.json()["unknown"]
    return found


# --- R1: what is unknown ---


@pytest.mark.protocol("R1")
def test_unknown_names_what_a_restore_has_lost_and_nothing_where_there_was_none() -> None:
    device = TestDevice()
    kept = create()
    device.push(kept)
    backup = Backup()
    gone = create()
    device.push(gone)
    assert unknown(device, kept["id"], new_id()) == []
    backup.restore()
    assert unknown(device, gone["id"].upper(), kept["id"]) == [gone["id"]]


@pytest.mark.protocol("R1")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, "invalid_json"),
        ('{"ids": ["x"]}', 400, "invalid_request"),
        ('{"ids": [], "more": 1}', 400, "unknown_field"),
        ({"ids": [new_id() for _ in range(1_001)]}, 413, "batch_too_large"),
    ],
)
def test_unknown_refuses_what_it_cannot_read(body: Any, status: int, code: str) -> None:
    device = TestDevice()
    answer = Client().post("/sync/unknown", body, "application/json", headers=device.headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert Client().post("/sync/unknown", {"ids": []}, "application/json").status_code == 401


@pytest.mark.protocol("R1")
def test_push_with_a_token_of_before_a_restore_returns_410_and_applies_nothing() -> None:
    device = TestDevice()
    device.pull()
    made = create()
    assert device.send({"mutations": [made], "token": device.token}).status_code == 200
    sql("UPDATE sync_epoch SET database_identity = 'another'")
    later = create()
    answer = device.send({"mutations": [later], "token": device.token})
    assert (answer.status_code, answer.json()["code"]) == (410, "token_expired")
    assert of(later["row"]) is None
    assert device.send({"mutations": [later]}).status_code == 200


# --- R2: it is as it was ---


@pytest.mark.protocol("R2")
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_lost_mutations_of_several_devices_come_to_what_was_there_in_any_order(order: tuple[int, ...]) -> None:
    devices = [TestDevice() for _ in range(4)]
    row = create(first_name="Ana", title="old")
    devices[0].push(row)
    backup = Backup()
    offers = []
    edits = ({"title": "one"}, {"title": "two", "phone": "2"}, {"title": "old"}, {"phone": "4"})
    for rev, (device, values) in enumerate(zip(devices, edits, strict=True), 1):
        offers += acknowledged(device, update(row["row"], rev, **values))
    before = of(row["row"])
    backup.restore()
    for at in order:
        results = devices[at].push(offers[at])
        assert results[0]["status"] in {"applied", "merged"}
        assert devices[at].push(offers[at])[0]["replayed"] is True
    assert of(row["row"]) == before == {"first_name": "Ana", "last_name": "", "title": "old", "phone": "4"}
    assert not Conflict.objects.exists() and not Rejection.objects.exists()


@pytest.mark.protocol("R2")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_lost_create_edit_and_delete_come_to_what_was_there_in_any_order(order: tuple[int, ...]) -> None:
    first, second, third = devices = [TestDevice() for _ in range(3)]
    kept, gone = create(first_name="Ana", title="kept"), create(first_name="Ana", title="gone")
    backup = Backup()
    offers = [acknowledged(first, kept, gone)]
    offers += [acknowledged(second, update(kept["row"], 1, title="edited"), update(gone["row"], 1, title="edited"))]
    offers += [acknowledged(third, delete(gone["row"], 2), update(kept["row"], 2, phone="3"))]
    backup.restore()
    for at in order:
        devices[at].push(*offers[at])
    assert of(gone["row"]) is None
    found = of(kept["row"])
    assert found is not None and (found["title"], found["phone"]) == ("edited", "3")
    assert not Rejection.objects.filter(state="open", row_id=kept["row"]).exists()


@pytest.mark.protocol("R2")
def test_lost_amounts_are_added_once() -> None:
    product = Product.objects.create(id=new_id(), code="1", name="Tea", units_in_stock=10)
    device, other = TestDevice(), TestDevice()

    def taken(base: int) -> Row:
        row = {"id": new_id(), "entity": "product", "row": str(product.pk), "op": "update", "base": base}
        return row | {"add": {"units_in_stock": -2}}

    early = acknowledged(device, taken(1))
    backup = Backup()
    offers = acknowledged(device, taken(2)), acknowledged(other, taken(3))
    backup.restore()
    assert unknown(device, early[0]["id"], offers[0][0]["id"]) == [offers[0][0]["id"]]
    for _ in range(2):
        other.push(*offers[1])
        device.push(*offers[0])
        device.push(*early)
    product.refresh_from_db()
    assert product.units_in_stock == 4


@pytest.mark.protocol("R2")
def test_lost_mutation_whose_effect_was_restored_is_not_applied_again() -> None:
    """Its answer is not known, though its row has it: as where answers were forgotten."""
    product = Product.objects.create(id=new_id(), code="1", name="Tea", units_in_stock=10)
    device = TestDevice()
    taken = {"id": new_id(), "entity": "product", "row": str(product.pk), "op": "update", "base": 1}
    offers = acknowledged(device, taken | {"add": {"units_in_stock": -2}})
    sql("DELETE FROM sync_result")
    Backup().restore()
    assert device.statuses(*offers) == ["applied"]
    product.refresh_from_db()
    assert product.units_in_stock == 8


@pytest.mark.protocol("R2")
def test_lost_group_is_all_or_nothing_and_waits_for_what_another_device_brings_back() -> None:
    first, second = TestDevice(), TestDevice()
    known = create(first_name="Ana", title="old")
    first.push(known)
    backup = Backup()
    made = create(first_name="Ana", title="made")
    offers = acknowledged(first, made)
    group = new_id()
    grouped = [update(made["row"], 1, title="new"), update(known["row"], 1, title="new")]
    grouped = acknowledged(second, *(each | {"group": group} for each in grouped))
    backup.restore()
    assert second.statuses(*grouped) == ["rejected", "rejected"]
    assert [row and row["title"] for row in (of(made["row"]), of(known["row"]))] == [None, "old"]
    first.push(*offers)
    assert [row and row["title"] for row in (of(made["row"]), of(known["row"]))] == ["new", "new"]
    assert {each.state for each in Rejection.objects.all()} == {"replayed"}
    assert UUID(grouped[0]["id"]) in set(Rejection.objects.values_list("mutation", flat=True))


@pytest.mark.protocol("R2")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_lost_row_that_was_deleted_and_made_again_is_what_was_there_in_any_order(order: tuple[int, ...]) -> None:
    devices = [TestDevice() for _ in range(3)]
    row = create(first_name="Ana", title="old")
    backup = Backup()
    again = create(row=row["row"], first_name="Eva")
    steps = (row, delete(row["row"], 1), again)
    offers = [acknowledged(device, step) for device, step in zip(devices, steps, strict=True)]
    before = of(row["row"])
    backup.restore()
    for at in order:
        devices[at].push(*offers[at])
    assert of(row["row"]) == before


@pytest.mark.protocol("R2")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_lost_edit_that_had_brought_a_row_back_does_so_again(order: tuple[int, ...]) -> None:
    devices = [TestDevice() for _ in range(3)]
    row = create(first_name="Ana", title="old")
    devices[0].push(row)
    backup = Backup()
    steps = (update(row["row"], 1, title="one"), delete(row["row"], 2), update(row["row"], 2, phone="2"))
    offers = [acknowledged(device, step) for device, step in zip(devices, steps, strict=True)]
    before = of(row["row"])
    backup.restore()
    for at in order:
        devices[at].push(*offers[at])
    assert before is not None and of(row["row"]) == before


@pytest.mark.protocol("R2")
def test_a_chain_of_rows_of_which_each_waits_for_the_one_before_is_brought_back() -> None:
    first, second, third = TestDevice(), TestDevice(), TestDevice()
    backup = Backup()
    customer = create("customer", name="C")
    made = create(first_name="Ana", customer_id=customer["row"])
    steps = [(first, customer), (second, made), (third, update(made["row"], 1, title="edited"))]
    offers = [(device, acknowledged(device, step)) for device, step in steps]
    backup.restore()
    assert [device.statuses(*offered) for device, offered in reversed(offers)] == [
        ["rejected"],
        ["rejected"],
        ["applied"],
    ]
    found = of(made["row"])
    assert found is not None and found["title"] == "edited"


@pytest.mark.protocol("R2")
def test_what_waits_in_vain_keeps_nobody_else_waiting(settings: Settings) -> None:
    settings.SYNC_REPLAYS_MAX = 1
    first, second = TestDevice(), TestDevice()
    backup = Backup()
    made = create(first_name="Ana", title="made")
    offers = acknowledged(first, made)
    (waiting,) = acknowledged(second, update(made["row"], 1, title="new"))
    backup.restore()
    in_vain = [lost(update(new_id(), 1, title="never"), 2) for _ in range(3)]
    assert second.statuses(*in_vain, waiting) == ["rejected"] * 4
    first.push(*offers)
    found = of(made["row"])
    assert found is not None and found["title"] == "new"
    assert Rejection.objects.filter(state="open").count() == 3


@pytest.mark.protocol("R2")
def test_what_waits_is_applied_once_where_several_replay_it_at_once() -> None:
    devices = [TestDevice() for _ in range(4)]
    backup = Backup()
    rows = [{"id": UUID(new_id()), "code": str(n), "name": "Tea", "units_in_stock": 10} for n in range(6)]
    Product.objects.bulk_create(Product(**row) for row in rows)
    offers = [
        acknowledged(
            device,
            *(
                {"id": new_id(), "entity": "product", "row": str(row["id"]), "op": "update", "base": base}
                | {"add": {"units_in_stock": -2}}
                for row in rows
            ),
        )
        for base, device in enumerate(devices, 1)
    ]
    backup.restore()
    for device, lost_ones in zip(devices, offers, strict=True):
        assert set(device.statuses(*lost_ones)) == {"rejected"}
    Product.objects.bulk_create(Product(**row) for row in rows)  # as another program would that has them too
    start = Barrier(len(devices))

    def work(_: TestDevice) -> int:
        start.wait()
        try:
            return replay_waiting()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(devices)) as threads:
        done = sum(threads.map(work, devices))
    assert (done + replay_waiting(), Rejection.objects.filter(state="open").count()) == (24, 0)
    assert set(Product.objects.values_list("units_in_stock", flat=True)) == {10 - 2 * len(devices)}


# --- R3: what was made on lost revisions ---


@pytest.mark.protocol("R3")
@pytest.mark.parametrize("flagged", [True, False])
def test_edit_on_a_lost_revision_is_a_plain_write_where_nobody_else_wrote(flagged: bool) -> None:
    device, row = TestDevice(), create(first_name="Ana", title="old")
    device.push(row)
    backup = Backup()
    acknowledged(device, update(row["row"], 1, title="lost 2"), update(row["row"], 2, title="lost 3"))
    backup.restore()
    edit = update(row["row"], 3, title="offline")
    assert device.statuses(edit | ({"lost": 0} if flagged else {})) == ["applied"]


@pytest.mark.protocol("R3")
@pytest.mark.parametrize("edit_first", [True, False])
def test_edit_that_had_seen_a_lost_change_wins_over_it_in_any_order(edit_first: bool) -> None:
    one, other, row = TestDevice(), TestDevice(), create(first_name="Ana", title="old")
    one.push(row)
    backup = Backup()
    offers = acknowledged(one, update(row["row"], 1, title="lost"))
    backup.restore()
    edit = update(row["row"], 2, title="offline") | {"lost": 0}
    steps = [(other, [edit]), (one, offers)]
    for device, mutations in steps if edit_first else reversed(steps):
        assert device.statuses(*mutations) == ["applied"]
    found = of(row["row"])
    assert found is not None and found["title"] == "offline"
    assert not Conflict.objects.exists()


@pytest.mark.protocol("R3")
@pytest.mark.parametrize("acknowledged_before", [True, False])
def test_what_others_wrote_since_the_restore_is_a_conflict_though_its_revision_is_not_higher(
    acknowledged_before: bool,
) -> None:
    device, row = TestDevice(), create(first_name="Ana", title="old")
    device.push(row)
    backup = Backup()
    (offer,) = acknowledged(device, update(row["row"], 1, title="lost", phone="1"))
    backup.restore()
    for title in ("new", "newer", "newest"):
        Contact.objects.filter(pk=row["row"]).update(title=title)
    edit = offer if acknowledged_before else update(row["row"], 2, title="offline", phone="1") | {"lost": 0}
    assert device.statuses(edit) == ["conflict"]
    assert of(row["row"]) == {"first_name": "Ana", "last_name": "", "title": "newest", "phone": "1"}
    (conflict,) = Conflict.objects.all()
    assert conflict.fields == ["title"]


# --- R4: never more than the device may ---


@pytest.mark.protocol("R4")
def test_lost_mutation_outside_the_scopes_that_were_restored_goes_to_quarantine() -> None:
    device = TestDevice()
    backup = Backup()
    offers = acknowledged(device, create())
    backup.restore()
    device.revoke("global")
    device.grant("employee:1")
    assert device.statuses(*offers) == ["rejected"]
    (rejection,) = Rejection.objects.all()
    assert (rejection.cause, rejection.lost) == ("forbidden_scope", 1)


@pytest.mark.protocol("R4")
def test_lost_mutation_that_waits_is_replayed_within_its_devices_scopes_only() -> None:
    stranger, owner = TestDevice("employee:1"), TestDevice()
    backup = Backup()
    made = create()
    offers = acknowledged(owner, made)
    backup.restore()
    assert stranger.statuses(lost(update(made["row"], 1, title="theirs"), 2)) == ["rejected"]
    owner.push(*offers)
    found = of(made["row"])
    assert found is not None and found["title"] == ""
    assert Rejection.objects.get().state == "open"
