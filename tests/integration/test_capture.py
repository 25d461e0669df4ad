"""Every committed change of a synced table, whoever made it, is in the feed and in the history."""

import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction

from entities.models import Contact, Employee, Order, OrderLine, Product
from sync.capture import authored
from sync.install import after_migrate, captures, out_of_date
from tests.integration.sync_support import (
    CONTACT,
    SHARED,
    TestDevice,
    employee,
    feed,
    history,
    new_customer,
    new_id,
    order,
    other_connection,
    sql,
)

pytestmark = pytest.mark.django_db


def contact(**values: Any) -> Contact:
    return Contact.objects.create(**{"first_name": "Ana", **values})


def check_references() -> None:
    """Do now what the end of the transaction does: a table cannot be altered before."""
    sql("SET CONSTRAINTS ALL IMMEDIATE")


def test_capture_of_insert_update_delete_by_the_orm() -> None:
    row = contact()
    row.first_name = "Ina"
    row.save()
    row_id = str(row.pk)
    row.delete()
    assert [(rev, op) for rev, op, *_ in history(row_id)] == [(1, "insert"), (2, "update"), (3, "delete")]
    assert history(row_id)[1][3:] == ('{"first_name": "Ana"}', '{"first_name": "Ina"}')
    assert feed(row_id) == {"global": (3, False)}


def test_capture_of_bulk_create_and_queryset_update_and_bulk_update() -> None:
    rows = Contact.objects.bulk_create(Contact(first_name=str(n)) for n in range(5))
    Contact.objects.filter(pk__in=[row.pk for row in rows]).update(note="x")
    for row in rows:
        row.phone = "1"
    Contact.objects.bulk_update(rows, ["phone"])
    assert {feed(str(row.pk))["global"] for row in rows} == {(3, True)}


def test_capture_of_raw_sql_copy_upsert_and_merge() -> None:
    ids = [new_id() for _ in range(3)]
    columns = "(id, first_name, last_name, title, email, phone, note)"
    with connection.cursor() as cursor, cursor.copy(f"COPY entities_contact {columns} FROM STDIN") as copy:
        copy.write_row((ids[0], "copied", "", "", "", "", ""))
    upsert = f"{CONTACT} ON CONFLICT (id) DO UPDATE SET note = 'again'"
    sql(upsert, [ids[1], "upsert"])
    sql(upsert, [ids[1], "upsert"])
    sql(
        "MERGE INTO entities_contact c USING (SELECT %s::uuid AS id) s ON c.id = s.id "
        "WHEN NOT MATCHED THEN INSERT (id, first_name, last_name, title, email, phone, note) "
        "VALUES (s.id, 'merged', '', '', '', '', '')",
        [ids[2]],
    )
    assert [feed(row)["global"][0] for row in ids] == [1, 2, 1]


def test_capture_of_truncate() -> None:
    row = str(contact().pk)
    check_references()
    sql("TRUNCATE entities_contact")
    assert feed(row) == {"global": (2, False)}
    assert history(row)[-1][1] == "delete"


def test_capture_of_cascades() -> None:
    customer = new_customer()
    row = str(contact(customer=customer).pk)
    customer.delete()
    assert feed(row) == {"global": (2, False)}


def test_capture_of_a_changed_key_is_a_delete_and_an_insert() -> None:
    before, after = str(contact().pk), new_id()
    sql("UPDATE entities_contact SET id = %s WHERE id = %s", [after, before])
    assert (feed(before), feed(after)) == ({"global": (2, False)}, {"global": (1, True)})


def test_capture_of_a_row_that_comes_back_goes_on_counting() -> None:
    row = contact()
    row_id = str(row.pk)
    row.delete()
    contact(id=row_id)
    assert feed(row_id) == {"global": (3, True)}


def test_capture_of_nothing_when_nothing_that_devices_see_changed() -> None:
    product = Product.objects.create(code="A", name="A")
    Product.objects.filter(pk=product.pk).update(name="A")
    Product.objects.filter(pk=product.pk).update(unit_cost=3)
    assert feed(str(product.pk)) == {"global": (1, True)}


def test_capture_is_undone_by_rollback() -> None:
    row = new_id()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        contact(id=row)
        raise ZeroDivisionError
    assert (feed(row), history(row)) == ({}, [])


def test_capture_moves_a_row_from_scope_to_scope() -> None:
    first, second = (Employee.objects.create(number=n, first_name="E", last_name="E") for n in (1, 2))
    order = Order.objects.create(customer=new_customer(), employee=first, ordered_on="2026-11-21")
    order.employee = second
    order.save()
    assert feed(str(order.pk)) == {f"employee:{first.pk}": (2, False), f"employee:{second.pk}": (2, True)}


def test_capture_puts_a_row_without_a_scope_where_nobody_is_granted() -> None:
    order = Order.objects.create(customer=new_customer(), ordered_on="2026-11-21")
    assert feed(str(order.pk)) == {"": (1, True)}


def test_capture_notes_author_and_mutation_until_the_end_of_the_transaction() -> None:
    mine, other, mutation = new_id(), new_id(), new_id()
    with transaction.atomic(), authored("user:ana", {mine: mutation}):
        contact(id=mine)
    contact(id=other)
    assert history(mine)[0][2] == "user:ana"
    assert sql("SELECT mutation::text FROM sync_history WHERE row_id = %s", [mine]) == [(mutation,)]
    assert history(other)[0][2].startswith("sql:")


def test_capture_author_needs_a_transaction(transactional_db: None) -> None:
    with pytest.raises(transaction.TransactionManagementError), authored("user:ana"):
        pass


@pytest.mark.django_db(transaction=True)
def test_capture_writes_each_type_as_the_wire_wants_it() -> None:
    customer, employee = (
        new_customer(name='Ä"\\\n'),
        Employee.objects.create(number=1, first_name="E", last_name="E"),
    )
    product = Product.objects.create(code="A", name="A", unit_price=Decimal("12.5"), unit_cost=3, discontinued=True)
    order = Order.objects.create(customer=customer, employee=employee, ordered_on="2026-11-21")
    OrderLine.objects.create(order=order, product=product, unit_price=1, quantity=2, discount="0.25")
    device = TestDevice(*SHARED, f"employee:{employee.pk}")
    device.pull()
    told = device.of("product")[str(product.pk)]
    assert (told["unit_price"], told["units_in_stock"], told["discontinued"]) == ("12.5000", 0, True)
    assert "unit_cost" not in told
    assert device.of("customer")[str(customer.pk)]["name"] == 'Ä"\\\n'
    assert device.of("order")[str(order.pk)]["ordered_on"] == "2026-11-21"
    (line,) = device.of("order_line").values()
    assert (line["order_id"], line["discount"], line["_rev"]) == (str(order.pk), "0.2500", 1)


def test_check_notices_a_trigger_that_is_switched_off_or_gone() -> None:
    assert out_of_date() == []
    sql("ALTER TABLE entities_contact DISABLE TRIGGER sync_capture_update")
    sql("DROP TRIGGER sync_capture_insert ON entities_order")
    assert out_of_date() == ["contact", "order"]


def test_check_notices_a_function_that_was_edited() -> None:
    sql(
        "CREATE OR REPLACE FUNCTION sync_capture_contact_delete() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NULL; END $$"
    )
    assert out_of_date() == ["contact"]


def test_migrate_installs_what_is_missing_and_captures_what_was_missed() -> None:
    kept, missed = str(contact().pk), new_id()
    check_references()
    sql("ALTER TABLE entities_contact DISABLE TRIGGER sync_capture_insert")
    sql(CONTACT, [missed, "missed"])
    check_references()
    sql("UPDATE sync_capture SET digest = '', wire_digest = '' WHERE entity = 'contact'")
    after_migrate()
    assert out_of_date() == []
    assert (feed(missed), feed(kept)) == ({"global": (1, True)}, {"global": (1, True)})


def test_migrate_stamps_anew_exactly_the_rows_whose_wire_form_changed() -> None:
    changed, same = str(contact(note="x").pk), str(contact().pk)
    check_references()
    sql('UPDATE sync_feed SET data = replace(data, \'"note":"x"\', \'"note":"old form"\') WHERE row_id = %s', [changed])
    sql("UPDATE sync_capture SET wire_digest = '' WHERE entity = 'contact'")
    after_migrate()
    assert (feed(changed), feed(same)) == ({"global": (2, True)}, {"global": (1, True)})
    assert history(changed)[-1][2] == "migrate"


def test_migrate_takes_a_retired_entity_from_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    row = str(contact().pk)
    check_references()
    rest = {name: capture for name, capture in captures().items() if name != "contact"}
    monkeypatch.setattr("sync.install.captures", lambda: rest)
    monkeypatch.setattr("sync.install.entities", lambda: rest)
    after_migrate()
    assert feed(row) == {"global": (2, False)}
    assert sql(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'entities_contact'::regclass AND tgname LIKE 'sync%%'"
    ) == [(0,)]


@pytest.mark.parametrize("op", ["insert", "update"])
@pytest.mark.parametrize("moves", [False, True])
def test_capture_of_rows_that_another_trigger_changes_again(op: str, moves: bool) -> None:
    here, there = (employee(n) for n in (1, 2))
    row = str(order(here if moves else there).pk) if op == "update" else ""
    change = f"employee_id = '{there}'" if moves else "note = 'touched'"
    differs = f"NEW.employee_id <> '{there}'" if moves else "NEW.note <> 'touched'"
    check_references()
    sql(
        f"""CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF {differs} THEN UPDATE entities_order SET {change} WHERE id = NEW.id; END IF; RETURN NULL; END $$;
        CREATE TRIGGER meddle AFTER INSERT OR UPDATE ON entities_order FOR EACH ROW EXECUTE FUNCTION meddle()"""
    )
    if op == "insert":
        row = str(order(here if moves else there).pk)
    else:
        sql("UPDATE entities_order SET freight = freight + 1 WHERE id = %s", [row])
    assert {scope for scope, (_, alive) in feed(row).items() if alive} == {f"employee:{there}"}
    ((told,),) = sql("SELECT data::json FROM sync_feed WHERE row_id = %s AND data IS NOT NULL", [row])
    kept = Order.objects.get(pk=row)
    assert (told["note"], told["freight"], told["employee_id"]) == (kept.note, str(kept.freight), there)


@pytest.mark.parametrize("op", ["insert", "update"])
def test_capture_of_rows_that_another_trigger_deletes(op: str) -> None:
    row = str(contact().pk)
    check_references()
    sql(
        """CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM entities_contact WHERE id = NEW.id AND note = 'delete'; RETURN NULL; END $$;
        CREATE TRIGGER meddle AFTER INSERT OR UPDATE ON entities_contact FOR EACH ROW EXECUTE FUNCTION meddle()"""
    )
    if op == "update":
        sql("UPDATE entities_contact SET note = 'delete' WHERE id = %s", [row])
    else:
        sql("DELETE FROM entities_contact WHERE id = %s", [row])
        sql(CONTACT.replace("''", "'delete'"), [row, "again"])
    assert not any(alive for _, alive in feed(row).values())


@pytest.mark.django_db(transaction=True)
def test_capture_of_another_program_names_its_role() -> None:
    row = str(uuid.uuid4())
    with other_connection() as other:
        other.execute(CONTACT, [row, "psql"])
        (role,) = other.execute("SELECT session_user").fetchone() or ("",)
    assert isinstance(other, psycopg.Connection)
    assert history(row)[0][2] == f"sql:{role}"
