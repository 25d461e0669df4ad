"""Rows follow the rows that they refer to from scope to scope, whoever moves these and whatever happens at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import transaction

from entities.models import Order, OrderLine, Product
from sync.install import out_of_date
from sync.prune import prune
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    beside,
    codes,
    create,
    employee,
    feed,
    history,
    new_customer,
    new_id,
    order,
    other_connection,
    sql,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)

LINE = (
    "INSERT INTO entities_orderline (id, order_id, product_id, unit_price, quantity, discount) "
    "VALUES (%s, %s, %s, 1, 1, 0)"
)
MOVE = "UPDATE entities_order SET employee_id = %s WHERE id = %s"


def product() -> str:
    return str(Product.objects.create(code=new_id()[:20], name="P").pk)


def line(of: Order, quantity: int = 1) -> OrderLine:
    return OrderLine.objects.create(order=of, product_id=product(), unit_price=1, quantity=quantity)


def scopes_of(row: object) -> set[str]:
    """Those in which the row is alive."""
    return {scope for scope, (_, there) in feed(str(row)).items() if there}


@pytest.fixture
def people() -> tuple[str, str]:
    return employee(1), employee(2)


# --- where a row is ---


def test_a_row_is_in_the_scope_of_the_row_that_it_refers_to(people: tuple[str, str]) -> None:
    assert scopes_of(line(order(people[0])).pk) == {f"employee:{people[0]}"}


def by_orm(row: Order, whose: str) -> None:
    row.employee_id = whose
    row.save()


def by_queryset(row: Order, whose: str) -> None:
    Order.objects.filter(pk=row.pk).update(employee=whose)


def by_raw_sql(row: Order, whose: str) -> None:
    with other_connection() as other:
        other.execute(MOVE, [whose, row.pk])


def by_upsert(row: Order, whose: str) -> None:
    sql(
        "INSERT INTO entities_order SELECT o.* FROM entities_order o WHERE id = %s "
        "ON CONFLICT (id) DO UPDATE SET employee_id = %s",
        [row.pk, whose],
    )


@pytest.mark.parametrize("move", [by_orm, by_queryset, by_raw_sql, by_upsert])
def test_rows_move_with_the_row_that_they_refer_to_and_keep_their_revision(
    people: tuple[str, str], move: Callable[[Order, str], None]
) -> None:
    here, there = people
    parent = order(here)
    rows = [str(line(parent).pk) for _ in range(3)]
    other = str(line(order(here)).pk)
    move(parent, there)
    assert [feed(row) for row in rows] == [{f"employee:{here}": (1, False), f"employee:{there}": (1, True)}] * 3
    assert [len(history(row)) for row in rows] == [1] * 3
    assert scopes_of(other) == {f"employee:{here}"}


def test_a_move_is_a_delete_for_those_who_lose_the_rows_and_brings_them_whole_to_the_others(
    people: tuple[str, str],
) -> None:
    here, there = people
    parent = order(here)
    row = line(parent, quantity=7)
    OrderLine.objects.filter(pk=row.pk).update(quantity=8)
    losing, gaining = TestDevice(*SHARED, f"employee:{here}"), TestDevice(*SHARED, f"employee:{there}")
    both = TestDevice(f"employee:{here}", f"employee:{there}")
    for device in (losing, gaining, both):
        device.pull()
    by_queryset(parent, there)
    assert losing.page(losing.token)["changes"]["order_line"] == {"upserts": [], "deletes": [str(row.pk)]}
    (told,) = gaining.page(gaining.token)["changes"]["order_line"]["upserts"]
    assert (told["_rev"], told["quantity"]) == (2, 8)
    both.pull()
    assert both.of("order_line").keys() == {str(row.pk)}


def test_a_move_and_back_leaves_everything_as_it_was(people: tuple[str, str]) -> None:
    here, there = people
    parent = order(here)
    row = line(parent)
    device = TestDevice(f"employee:{here}")
    by_queryset(parent, there)
    by_queryset(parent, here)
    device.pull()
    assert device.of("order_line").keys() == {str(row.pk)}
    row.delete()
    device.pull()
    assert device.of("order_line") == {}


def test_a_row_that_refers_to_another_moves_alone(people: tuple[str, str]) -> None:
    first, second = order(people[0]), order(people[1])
    moving, staying = line(first), line(first)
    moving.order = second
    moving.save()
    assert (scopes_of(moving.pk), scopes_of(staying.pk)) == ({f"employee:{people[1]}"}, {f"employee:{people[0]}"})
    assert feed(str(moving.pk))[f"employee:{people[1]}"] == (2, True)


def test_an_update_that_moves_nothing_writes_nothing_about_the_rows_that_follow(people: tuple[str, str]) -> None:
    parent = order(people[0])
    row = str(line(parent).pk)
    before = sql("SELECT xid::text, seq FROM sync_feed WHERE row_id = %s", [row])
    Order.objects.filter(pk=parent.pk).update(note="x")
    assert sql("SELECT xid::text, seq FROM sync_feed WHERE row_id = %s", [row]) == before


def test_a_row_may_come_before_the_one_that_it_refers_to(people: tuple[str, str]) -> None:
    template, row, parent = order(people[0]), new_id(), new_id()
    with transaction.atomic():
        sql(LINE, [row, parent, product()])
        assert scopes_of(row) == {""}
        sql(
            "INSERT INTO entities_order (id, number, customer_id, employee_id, status, ordered_on, freight, ship_name, "
            "ship_address, ship_city, ship_region, ship_postal_code, ship_country, note) "
            "SELECT %s, '', customer_id, employee_id, status, ordered_on, 0, '', '', '', '', '', '', '' "
            "FROM entities_order WHERE id = %s",
            [parent, template.pk],
        )
        assert scopes_of(row) == {f"employee:{people[0]}"}


def test_many_rows_change_place_in_one_statement(people: tuple[str, str]) -> None:
    here, there = people
    ours, theirs = [order(here) for _ in range(3)], [order(there) for _ in range(3)]
    lines = {
        whose: [line(each).pk for each in orders for _ in range(4)] for whose, orders in ((here, ours), (there, theirs))
    }
    sql(
        "UPDATE entities_order SET employee_id = CASE employee_id WHEN %s::uuid THEN %s::uuid ELSE %s::uuid END",
        [here, there, here],
    )
    assert {frozenset(scopes_of(row)) for row in lines[here]} == {frozenset({f"employee:{there}"})}
    assert {frozenset(scopes_of(row)) for row in lines[there]} == {frozenset({f"employee:{here}"})}


def test_a_parent_without_the_value_takes_its_rows_from_everybody(people: tuple[str, str]) -> None:
    parent = order(people[0])
    row = line(parent)
    Order.objects.filter(pk=parent.pk).update(employee=None)
    assert scopes_of(row.pk) == {""}


def test_a_move_that_is_rolled_back_moves_nothing(people: tuple[str, str]) -> None:
    parent = order(people[0])
    row = line(parent)
    with transaction.atomic():
        by_queryset(parent, people[1])
        transaction.set_rollback(True)
    assert scopes_of(row.pk) == {f"employee:{people[0]}"}


# --- what devices push ---


def values(of: Order, **others: Any) -> dict[str, Any]:
    return {"order_id": str(of.pk), "product_id": product(), "unit_price": "1", **others}


@pytest.mark.protocol("U7")
def test_push_of_a_row_outside_the_scopes_is_answered_as_if_its_parent_did_not_exist(people: tuple[str, str]) -> None:
    mine, theirs = order(people[0]), order(people[1])
    device = TestDevice(*SHARED, f"employee:{people[0]}")
    own = line(mine)
    absent = Order(pk=new_id())

    def answers(parent: Order) -> list[Any]:
        told = device.push(
            create("order_line", **values(parent)), update(str(own.pk), 1, "order_line", order_id=str(parent.pk))
        )
        return [{name: value for name, value in result.items() if name != "id"} for result in told]

    assert answers(theirs) == answers(absent)
    assert [codes(result) for result in answers(theirs)] == [[("order_id", "missing_reference")]] * 2
    assert scopes_of(own.pk) == {f"employee:{people[0]}"}


@pytest.mark.protocol("U7")
def test_push_of_parent_and_rows_together_is_within_the_scopes(people: tuple[str, str]) -> None:
    customer = order(people[0]).customer_id
    device = TestDevice(*SHARED, f"employee:{people[0]}")
    parent, row = new_id(), new_id()
    made = {"customer_id": str(customer), "employee_id": people[0], "ordered_on": "2026-11-21"}
    told = device.statuses(create("order_line", row, **values(Order(pk=parent))), create("order", parent, **made))
    assert told == ["applied"] * 2
    assert scopes_of(row) == {f"employee:{people[0]}"}


@pytest.mark.protocol("U7")
def test_push_that_moves_a_row_takes_along_what_follows_it(people: tuple[str, str]) -> None:
    here, there = people
    parent = order(here)
    row = line(parent)
    device = TestDevice(*SHARED, f"employee:{here}", f"employee:{there}")
    told = device.statuses(
        update(str(row.pk), 1, "order_line", quantity=2), update(str(parent.pk), 1, "order", employee_id=there)
    )
    assert told == ["applied"] * 2
    assert feed(str(row.pk))[f"employee:{there}"] == (2, True)


@pytest.mark.protocol("U7")
def test_push_cannot_bring_rows_into_the_scopes_that_it_may_not_know(people: tuple[str, str]) -> None:
    here, there = people
    parent = order(here)
    row = line(parent)
    sql("UPDATE sync_feed SET scope = 'elsewhere:1' WHERE row_id = %s", [row.pk])  # as by another rule of its entity
    device = TestDevice(*SHARED, f"employee:{here}", f"employee:{there}")
    (refused,) = device.push(update(str(parent.pk), 1, "order", employee_id=there))
    assert codes(refused) == [(None, "forbidden_scope")]
    assert scopes_of(row.pk) == {"elsewhere:1"}
    assert device.statuses(update(str(parent.pk), 1, "order", note="moves nothing")) == ["applied"]


# --- at the same time ---


def test_a_row_that_is_made_while_its_parent_moves_is_not_left_behind(people: tuple[str, str]) -> None:
    here, there = people
    parent, made, what = order(here), new_id(), product()
    with transaction.atomic():
        by_queryset(parent, there)
        maker = beside(lambda other: other.execute(LINE, [made, parent.pk, what]))
    maker.join()
    assert scopes_of(made) == {f"employee:{there}"}


def test_a_parent_that_moves_while_a_row_is_made_takes_it_along(people: tuple[str, str]) -> None:
    here, there = people
    parent, made, what = order(here), new_id(), product()
    with transaction.atomic():
        sql(LINE, [made, parent.pk, what])
        mover = beside(lambda other: other.execute(MOVE, [there, parent.pk]))
    mover.join()
    assert scopes_of(made) == {f"employee:{there}"}


@pytest.mark.parametrize("first", ["the parent", "the row"])
def test_a_row_that_changes_while_its_parent_moves_is_in_one_scope_with_its_last_state(
    people: tuple[str, str], first: str
) -> None:
    here, there = people
    parent = order(here)
    row = line(parent)
    change = "UPDATE entities_orderline SET quantity = 9 WHERE id = %s"
    with transaction.atomic():
        if first == "the parent":
            by_queryset(parent, there)
            second = beside(lambda other: other.execute(change, [row.pk]))
        else:
            sql(change, [row.pk])
            second = beside(lambda other: other.execute(MOVE, [there, parent.pk]))
    second.join()
    assert feed(str(row.pk)) == {
        f"employee:{here}": (feed(str(row.pk))[f"employee:{here}"][0], False),
        f"employee:{there}": (2, True),
    }
    device = TestDevice(f"employee:{there}")
    device.pull()
    assert device.of("order_line")[str(row.pk)]["quantity"] == 9


@pytest.mark.parametrize("first", ["the old parent", "the new parent", "the row"])
def test_a_row_that_gets_another_parent_while_one_moves_is_where_its_parent_is(
    people: tuple[str, str], first: str
) -> None:
    here, there = people
    elsewhere = employee(3)
    old, new = order(here), order(there)
    row = line(old)
    change = "UPDATE entities_orderline SET order_id = %s WHERE id = %s"
    with transaction.atomic():
        if first == "the row":
            sql(change, [new.pk, row.pk])
            others = [
                beside(partial(psycopg.Connection.execute, query=MOVE, params=[elsewhere, parent.pk]))
                for parent in (old, new)
            ]
        else:
            sql(MOVE, [elsewhere, (old if first == "the old parent" else new).pk])
            others = [beside(lambda other: other.execute(change, [new.pk, row.pk]))]
    for thread in others:
        thread.join()
    assert scopes_of(row.pk) == {f"employee:{there if first == 'the old parent' else elsewhere}"}


def test_changes_of_a_parent_that_move_nothing_wait_for_nobody(people: tuple[str, str]) -> None:
    parent, what = order(people[0]), product()
    with transaction.atomic():
        sql(LINE, [new_id(), parent.pk, what])
        with other_connection() as other:
            other.execute("SET lock_timeout = '1s'")
            other.execute("UPDATE entities_order SET note = 'x' WHERE id = %s", [parent.pk])


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_move_above_read_committed_is_refused_and_says_what_to_do(people: tuple[str, str], level: str) -> None:
    parent = order(people[0])
    line(parent)
    with other_connection() as other, pytest.raises(psycopg.errors.FeatureNotSupported, match="READ COMMITTED"):
        other.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        other.execute("UPDATE entities_order SET note = 'moves nothing' WHERE id = %s", [parent.pk])
        other.execute(MOVE, [people[1], parent.pk])


def test_a_row_made_in_an_old_snapshot_of_its_parent_is_an_error_not_a_leak(people: tuple[str, str]) -> None:
    parent, what = order(people[0]), product()
    with other_connection() as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT FROM entities_order")
        by_queryset(parent, people[1])
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute(LINE, [new_id(), parent.pk, what])


# --- in force ---


def test_check_notices_that_rows_would_not_follow() -> None:
    assert out_of_date() == []
    with transaction.atomic():
        sql("ALTER TABLE entities_order DISABLE TRIGGER sync_follow_order_line_update")
        assert out_of_date() == ["order_line"]
        transaction.set_rollback(True)


def test_rows_that_follow_are_found_by_an_index() -> None:
    ((source,),) = sql("SELECT prosrc FROM pg_proc WHERE proname = 'sync_follow_order_line'")
    found = source.split("v_rows := ARRAY(")[1].split(");\n")[0]
    with transaction.atomic():
        sql("SET LOCAL enable_seqscan = off")  # as the function does
        plan = str(sql(f"EXPLAIN {found.replace('v_moved', 'ARRAY(SELECT id FROM entities_order)')}"))
    assert "entities_orderline_order_id" in plan


@pytest.mark.parametrize("op", ["insert", "update"])
def test_a_row_whose_parent_another_transaction_commits_before_it_comes_with_the_next_prune(
    people: tuple[str, str], op: str
) -> None:
    here, there = people
    parent, customer, device = new_id(), new_customer(), TestDevice(f"employee:{there}")
    row = str(line(order(here)).pk) if op == "update" else new_id()
    device.pull()
    with other_connection() as other:  # foreign keys are looked at when it ends
        if op == "insert":
            other.execute(LINE, [row, parent, product()])
        else:
            other.execute("UPDATE entities_orderline SET order_id = %s WHERE id = %s", [parent, row])
        Order.objects.create(pk=parent, customer=customer, employee_id=there, ordered_on="2026-11-21")
    prune()
    device.pull()
    assert row in device.of("order_line")
    assert scopes_of(row) == {f"employee:{there}"}
