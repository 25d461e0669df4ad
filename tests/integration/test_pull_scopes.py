"""Which rows a pull brings and takes away as scopes and rows come and go: P5 of `docs/protocol.md`."""

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from pytest_django import Settings

from devices.models import Device, Grant
from entities.models import Order
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    beside,
    contact,
    create,
    employee,
    new_id,
    order,
    other_connection,
    problem,
    sql,
)

pytestmark = pytest.mark.django_db(transaction=True)


# --- P5: scopes ---


@pytest.mark.protocol("P5")
def test_pull_shows_only_the_rows_of_the_devices_scopes() -> None:
    mine, other = employee(1), employee(2)
    seen, hidden = order(mine), order(other)
    device = TestDevice(*SHARED, f"employee:{mine}")
    device.pull()
    assert set(device.of("order")) == {str(seen.pk)}
    assert str(hidden.pk) not in str(device.rows)


@pytest.mark.protocol("P5")
@pytest.mark.parametrize("others", [0, 1, 49, 50, 51, 120])  # what was written last is looked through up to 50 entries
@pytest.mark.parametrize("when", ["before", "after", "committed late"])
def test_pull_brings_what_changed_in_one_of_many_scopes_however_much_changed_elsewhere(others: int, when: str) -> None:
    mine = [employee(n) for n in range(1, 6)]
    row = order(mine[3])
    device = TestDevice(*(f"employee:{who}" for who in mine))
    move, at_work = f"UPDATE entities_order SET note = 'new' WHERE id = '{row.pk}'", other_connection()
    if when == "committed late":
        at_work.execute(move)
    device.pull()
    assert device.of("order")[str(row.pk)]["note"] == ""
    if when == "before":
        sql(move)
    for _ in range(others):
        contact()
    if when == "after":
        sql(move)
    elif when == "committed late":
        device.pull()
        assert device.of("order")[str(row.pk)]["note"] == ""
        at_work.commit()
    at_work.close()
    device.pull()
    assert device.of("order")[str(row.pk)]["note"] == "new"


@pytest.mark.protocol("P5")
def test_pull_brings_all_of_a_new_scope_while_the_others_go_on() -> None:
    who = employee(1)
    rows = {str(order(who).pk) for _ in range(5)}
    device = TestDevice()
    device.pull()
    device.grant(f"employee:{who}")
    later = contact()
    page = device.page(device.token, 100)
    assert {row["id"] for row in page["changes"]["order"]["upserts"]} == rows
    assert [row["id"] for row in page["changes"]["contact"]["upserts"]] == [later]


@pytest.mark.protocol("P5")
def test_pull_of_a_new_scope_takes_away_what_the_device_pushed_there_and_is_gone_again() -> None:
    who, customer = employee(1), order(employee(2)).customer_id
    device = TestDevice()
    device.pull()
    device.grant(f"employee:{who}")
    rows = [new_id(), new_id()]
    values = {"customer_id": str(customer), "employee_id": who, "ordered_on": "2026-11-21"}
    assert device.statuses(*(create("order", row, **values) for row in rows)) == ["applied"] * 2
    Order.objects.filter(pk=rows[0]).delete()
    changes = device.page(device.token, 100)["changes"]["order"]
    assert ([row["id"] for row in changes["upserts"]], changes["deletes"]) == (rows[1:], rows[:1])


@pytest.mark.protocol("P5")
def test_pull_takes_away_the_rows_of_a_lost_scope_also_those_deleted_meanwhile() -> None:
    who = employee(1)
    rows = [order(who) for _ in range(4)]
    device = TestDevice(*SHARED, f"employee:{who}")
    device.pull()
    device.revoke(f"employee:{who}")
    rows[0].delete()
    device.pull(2)
    assert device.of("order") == {}
    assert device.of("employee") == {}
    assert len(device.of("customer")) == 4


@pytest.mark.protocol("P5")
def test_pull_leaks_nothing_of_a_scope_that_is_revoked_in_the_middle_of_a_run() -> None:
    who = employee(1)
    for _ in range(6):
        order(who)
    device = TestDevice(f"employee:{who}")
    assert device.step(3)
    device.revoke(f"employee:{who}")
    Order.objects.update(note="after the revocation")
    device.pull(3)
    assert device.of("order") == {}


@pytest.mark.protocol("P5")
def test_pull_takes_away_a_row_that_moved_while_another_scope_was_revoked_in_the_middle_of_a_run() -> None:
    kept, lost, elsewhere = employee(1), employee(2), employee(3)
    moving = order(kept)
    rows = {str(order(kept).pk) for _ in range(3)}
    for _ in range(3):
        order(lost)
    device = TestDevice(f"employee:{kept}", f"employee:{lost}")
    while str(moving.pk) not in device.of("order"):
        assert device.step(1)
    device.revoke(f"employee:{lost}")
    Order.objects.filter(pk=moving.pk).update(employee=elsewhere)
    device.pull(1)
    assert device.of("order").keys() == rows


@pytest.mark.protocol("P5")
@pytest.mark.parametrize("limit", [2, 100])
def test_pull_brings_a_scope_back_that_was_granted_again_in_the_middle_of_a_run(limit: int) -> None:
    who = employee(1)
    rows = {str(order(who).pk) for _ in range(5)}
    device = TestDevice(f"employee:{who}")
    device.pull()
    device.revoke(f"employee:{who}")
    assert device.step(2)
    device.grant(f"employee:{who}")
    device.pull(limit)
    assert device.of("order").keys() == rows


@pytest.mark.protocol("P5")
def test_pull_brings_a_row_back_whose_new_scope_was_granted_in_the_middle_of_a_run() -> None:
    here, there = employee(1), employee(2)
    rows = [order(here) for _ in range(5)]
    device = TestDevice(f"employee:{here}")
    device.pull()
    Order.objects.filter(pk__in=[row.pk for row in rows[:3]]).update(freight=3)
    Order.objects.filter(pk=rows[4].pk).update(employee=there)
    assert device.step(2)
    device.grant(f"employee:{there}")
    device.pull()
    assert device.of("order").keys() == {str(row.pk) for row in rows}


@pytest.mark.protocol("P4")
def test_pull_tells_a_row_once_that_left_one_scope_for_another_which_was_revoked() -> None:
    kept, lost = employee(1), employee(2)
    row = order(kept)
    device = TestDevice(f"employee:{kept}", f"employee:{lost}")
    device.pull()
    Order.objects.filter(pk=row.pk).update(employee=lost)
    device.revoke(f"employee:{lost}")
    assert device.page(device.token)["changes"] == {
        "employee": {"upserts": [], "deletes": [lost]},
        "order": {"upserts": [], "deletes": [str(row.pk)]},
    }


@pytest.mark.protocol("P1")
def test_pull_of_several_pages_ends_however_many_write_meanwhile() -> None:
    device = TestDevice()
    for _ in range(5):
        contact()
    assert device.step(3)
    for _ in range(3):
        contact()
        more = device.step()
    assert not more
    assert len(device.of("contact")) == 8


@pytest.mark.protocol("P5")
def test_pull_tells_a_move_between_scopes_as_a_delete_here_and_a_row_there() -> None:
    here, there = employee(1), employee(2)
    moving = order(here)
    first, second = TestDevice(f"employee:{here}"), TestDevice(f"employee:{there}")
    both = TestDevice(f"employee:{here}", f"employee:{there}")
    for device in (first, second, both):
        device.pull()
    moving.employee_id = there
    moving.save()
    told = both.page(both.token)["changes"]["order"]
    assert (len(told["upserts"]), told["deletes"]) == (1, [])
    for device in (first, second, both):
        device.pull()
    assert [len(device.of("order")) for device in (first, second, both)] == [0, 1, 1]
    row = str(moving.pk)
    moving.delete()
    assert both.page(both.token)["changes"]["order"] == {"upserts": [], "deletes": [row]}


@pytest.mark.protocol("P5")
def test_pull_takes_away_what_was_pushed_into_a_scope_that_came_and_went_between_two_pulls() -> None:
    who, customer = employee(1), order(employee(2)).customer_id
    device = TestDevice()
    device.pull()
    device.grant(f"employee:{who}")
    row = new_id()
    values = {"customer_id": str(customer), "employee_id": who, "ordered_on": "2026-11-21"}
    assert device.statuses(create("order", row, **values)) == ["applied"]
    device.revoke(f"employee:{who}")
    assert device.page(device.token)["changes"]["order"] == {"upserts": [], "deletes": [row]}


@pytest.mark.protocol("P5")
def test_pull_of_a_first_load_takes_away_what_was_deleted_while_it_began_anew() -> None:
    kept, lost = employee(1), employee(2)
    rows = [order(kept) for _ in range(4)]
    order(lost)
    device = TestDevice(f"employee:{kept}", f"employee:{lost}")
    while len(device.of("order")) < 3:
        assert device.step(1)
    device.revoke(f"employee:{lost}")
    Order.objects.filter(pk__in=[row.pk for row in rows[:2]]).delete()
    device.pull(1)
    assert device.of("order").keys() == {str(row.pk) for row in rows[2:]}


@pytest.mark.protocol("P5")
def test_pull_of_a_scope_that_was_taken_and_given_back_is_whole_though_rows_were_gone_meanwhile() -> None:
    who = employee(1)
    rows = [order(who) for _ in range(3)]
    device = TestDevice(f"employee:{who}")
    device.pull()
    device.revoke(f"employee:{who}")
    rows[0].delete()
    device.grant(f"employee:{who}")
    device.pull(2)
    assert device.of("order").keys() == {str(row.pk) for row in rows[1:]}


@pytest.mark.protocol("P5")
def test_pull_knows_the_scopes_of_a_user_from_when_the_device_became_theirs() -> None:
    who = employee(1)
    row = order(who)
    ana = User.objects.create(username="ana")
    Grant.objects.create(user=ana, scope=f"employee:{who}")
    device = TestDevice()
    device.pull()
    Device.objects.filter(pk=device.device.pk).update(user=ana)
    device.pull()
    assert device.of("order").keys() == {str(row.pk)}
    Device.objects.filter(pk=device.device.pk).update(user=None)
    device.pull()
    assert device.of("order") == {}


@pytest.mark.protocol("P5")
def test_pull_loses_a_scope_that_was_granted_twice_when_both_are_taken_at_once() -> None:
    who = employee(1)
    order(who)
    ana = User.objects.create(username="ana")
    Grant.objects.create(user=ana, scope=f"employee:{who}")
    device = TestDevice(*SHARED, f"employee:{who}")
    Device.objects.filter(pk=device.device.pk).update(user=ana)
    device.pull()
    with transaction.atomic():
        device.revoke(f"employee:{who}")
        other = beside(lambda other: other.execute("DELETE FROM devices_grant WHERE user_id = %s", [ana.pk]))
    other.join()
    device.pull()
    assert device.of("order") == {}


@pytest.mark.protocol("P5")
def test_pull_loses_a_scope_that_was_taken_from_a_user_while_the_device_became_theirs() -> None:
    who = employee(1)
    order(who)
    ana = User.objects.create(username="ana")
    Grant.objects.create(user=ana, scope=f"employee:{who}")
    device = TestDevice()
    with transaction.atomic():
        Device.objects.filter(pk=device.device.pk).update(user=ana)
        other = beside(lambda other: other.execute("DELETE FROM devices_grant WHERE user_id = %s", [ana.pk]))
    other.join()
    device.pull()
    assert device.of("order") == {}


@pytest.mark.protocol("P8")
def test_pull_with_the_token_of_another_device_returns_410() -> None:
    one, other = TestDevice(), TestDevice()
    one.pull()
    assert problem(other.ask(one.token)) == (410, "token_expired")


@pytest.mark.protocol("P7")
def test_pull_token_does_not_grow_with_the_scopes() -> None:
    device = TestDevice(*(f"employee:{new_id()}" for _ in range(200)))
    device.pull()
    assert len(device.token or "") < 200


@pytest.mark.protocol("P7")
def test_pull_with_more_scopes_than_the_limit_says_so(settings: Settings) -> None:
    settings.SYNC_SCOPES_PER_DEVICE_MAX = 2
    device = TestDevice("a", "b", "c")
    assert problem(device.ask(None)) == (400, "too_many_scopes")


@pytest.mark.protocol("P5")
def test_pull_takes_away_a_row_that_moved_between_two_lost_scopes_while_they_were_read() -> None:
    first, second = sorted(employee(n) for n in (1, 2))
    for _ in range(3):
        order(first)
    rows = [order(second) for _ in range(4)]
    device = TestDevice(f"employee:{first}", f"employee:{second}")
    device.pull()
    device.revoke(f"employee:{first}")
    device.revoke(f"employee:{second}")
    assert device.step(5), "the first scope was read"
    Order.objects.filter(pk=rows[-1].pk).update(employee=first)
    device.pull(5)
    assert device.rows == {}


@pytest.mark.protocol("P5")
def test_pull_takes_away_a_row_that_left_and_was_deleted_in_a_lost_scope_that_was_read() -> None:
    lost, kept, elsewhere = sorted(employee(n) for n in (1, 2, 3))
    for _ in range(3):
        order(lost)
    rows = [order(kept) for _ in range(4)]
    device = TestDevice(f"employee:{lost}", f"employee:{kept}")
    device.pull()
    device.revoke(f"employee:{lost}")
    for row in rows:
        Order.objects.filter(pk=row.pk).update(note="x")
    moving = Order.objects.filter(pk=rows[-1].pk)
    moving.update(employee=elsewhere)
    assert device.step(5), "the lost scope was read"
    moving.update(employee=lost)
    moving.delete()
    device.pull(5)
    assert str(rows[-1].pk) not in device.of("order")
