"""/readyz says what stands in the way; prune forgets what is old, and no more; the schema tells when it changed."""

import sqlite3
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from sync.prune import prune
from tests.integration.sync_support import (
    CONTACT,
    TestDevice,
    create,
    new_id,
    other_connection,
    sql,
    tick_of_long_ago,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


def checks(status: int) -> dict[str, Any]:
    answer = Client().get("/readyz")
    assert answer.status_code == status, answer.content
    found: dict[str, Any] = answer.json()["checks"]
    return found


def test_readyz_is_200_when_all_is_well() -> None:
    assert {check["ok"] for check in checks(200).values()} == {True}


def test_readyz_names_the_entity_whose_trigger_is_switched_off() -> None:
    sql("ALTER TABLE entities_contact DISABLE TRIGGER sync_capture_insert")
    try:
        assert checks(503)["capture"]["out_of_date"] == ["contact"]
    finally:
        sql("ALTER TABLE entities_contact ENABLE ALWAYS TRIGGER sync_capture_insert")


def test_readyz_tells_of_a_writer_that_has_been_open_for_too_long(settings: Settings) -> None:
    settings.SYNC_WRITER_AGE_SECONDS_MAX = 0
    with other_connection() as other:
        other.execute(CONTACT, [new_id(), "open"])
        assert checks(503)["oldest_writer"]["ok"] is False
        other.rollback()


def test_healthz_asks_nothing() -> None:
    assert Client().get("/healthz").status_code == 200


def test_prune_forgets_old_answers_and_months_and_keeps_young_ones() -> None:
    device, old, young = TestDevice(), create(), create()
    sql("TRUNCATE sync_result")  # of other tests
    device.push(old, young)
    sql("UPDATE sync_result SET at = now() - interval '31 days' WHERE id = %s", [old["id"]])
    sql("CREATE TABLE sync_history_2020_01 PARTITION OF sync_history FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")
    counts = prune()
    assert (counts["answers"], counts["months of history"]) == (1, 1)
    assert [result.get("replayed", False) for result in device.push(young)] == [True]


def test_prune_keeps_the_answer_of_what_is_kept_as_a_conflict_or_in_quarantine() -> None:
    device, row = TestDevice(), new_id()
    sql(CONTACT, [row, "Ana"])
    sql("UPDATE entities_contact SET first_name = 'Eva'")
    late = [update(row, 1, first_name="Ina"), create(hat=1)]
    assert device.statuses(*late) == ["conflict", "rejected"]
    sql("UPDATE sync_result SET at = now() - interval '31 days'")
    prune()
    assert [result.get("replayed", False) for result in device.push(*late)] == [True, True]


def test_prune_waits_for_no_writer_and_leaves_what_one_holds_to_the_next_run() -> None:
    held, free = new_id(), new_id()
    for row in held, free:
        sql(CONTACT, [row, "here"])
    sql("DELETE FROM entities_contact WHERE id IN (%s, %s)", [held, free])
    tick_of_long_ago()
    with other_connection() as other:
        other.execute(CONTACT, [held, "back"])
        prune()
        other.rollback()
    assert remembered(held, free) == {held}
    tick_of_long_ago()
    prune()
    assert remembered(held, free) == set()


def remembered(*rows: str) -> set[str]:
    return {row for (row,) in sql("SELECT row_id::text FROM sync_feed WHERE row_id = ANY (%s::uuid[])", [list(rows)])}


def test_prune_moves_what_a_late_run_left_in_the_default_partition() -> None:
    sql("DROP TABLE IF EXISTS later")
    (name,) = sql("SELECT 'sync_history_' || to_char(now() + interval '2 months', 'YYYY_MM')")[0]
    sql(f"DROP TABLE {name}")
    sql(
        "INSERT INTO sync_history (at, row_id, entity, rev, op, author, xid) "
        "VALUES (date_trunc('month', now() + interval '2 months'), gen_random_uuid(), 'contact', 1, 'insert', 'x', 1)"
    )
    prune()
    assert sql(f"SELECT count(*) FROM {name}") == [(1,)]
    sql(f"DELETE FROM {name}")


def test_schema_lists_parents_first_and_answers_304_to_its_own_tag() -> None:
    device = TestDevice()
    answer = Client().get("/sync/schema", headers=device.headers)
    seen: set[str] = set()
    for entity in answer.json()["entities"]:
        references = {field["references"] for field in entity["fields"] if field["references"]}
        assert references <= seen | {entity["name"]}
        seen.add(entity["name"])
    again = Client().get("/sync/schema", headers=device.headers | {"if-none-match": answer["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_schema_as_sqlite_makes_a_replica_that_records_edits() -> None:
    script = Client().get("/sync/schema", {"format": "sqlite"}, headers=TestDevice().headers).content.decode()
    replica = sqlite3.connect(":memory:")
    replica.executescript(script)
    replica.execute("INSERT INTO contact (first_name) VALUES ('Ana')")
    assert replica.execute("SELECT entity, op FROM _sync_outbox").fetchall() == [("contact", "create")]
    replica.close()
