"""Which rows a pull brings and takes away as scopes and rows come and go: P5 of `docs/protocol.md`."""

import pytest

from entities.models import Order
from tests.integration.sync_support import TestDevice, contact, create, employee, new_id, order

pytestmark = pytest.mark.django_db(transaction=True)


# --- P5: scopes ---


@pytest.mark.protocol("P5")
def test_pull_shows_only_the_rows_of_the_devices_scopes() -> None:
    mine, other = employee(1), employee(2)
    seen, hidden = order(mine), order(other)
    device = TestDevice("global", f"employee:{mine}")
    device.pull()
    assert set(device.of("order")) == {str(seen.pk)}
    assert str(hidden.pk) not in str(device.rows)


@pytest.mark.protocol("P5")
def test_pull_brings_all_of_a_new_scope_while_the_others_go_on() -> None:
    who = employee(1)
    rows = {str(order(who).pk) for _ in range(5)}
    device = TestDevice("global")
    device.pull()
    device.grant(f"employee:{who}")
    later = contact()
    page = device.page(device.token, 100)
    assert {row["id"] for row in page["changes"]["order"]["upserts"]} == rows
    assert [row["id"] for row in page["changes"]["contact"]["upserts"]] == [later]


@pytest.mark.protocol("P5")
def test_pull_of_a_new_scope_takes_away_what_the_device_pushed_there_and_is_gone_again() -> None:
    who, customer = employee(1), order(employee(2)).customer_id
    device = TestDevice("global")
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
    device = TestDevice("global", f"employee:{who}")
    device.pull()
    device.revoke(f"employee:{who}")
    rows[0].delete()
    device.pull(2)
    assert device.of("order") == {}
    assert len(device.of("employee")) == 1


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
    assert device.page(device.token)["changes"] == {"order": {"upserts": [], "deletes": [str(row.pk)]}}


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
