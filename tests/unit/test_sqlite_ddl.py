"""The device's SQLite script: what an application writes in plain SQL waits in the outbox, in wire form."""

import base64
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.sqlite_ddl import sqlite_ddl
from tests.unit.syncdevice_support import entity, field, ids, outbox, schema

A, B, C = ids(3)
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SCHEMA = schema(
    entity(
        "order",
        field("status", "text", nullable=False, default="new"),
        field("note", "text", default="none"),
        field("quantity", "integer", counter=True),
        field("paid", "decimal", counter=True),
        field("price", "decimal"),
        field("done", "boolean"),
        field("due_at", "datetime"),
        field("extra", "json"),
        field("signature", "binary"),
        field("weight", "real"),
        field("total", "decimal", read_only=True),
    ),
    entity("product", field("name", "text"), writable=False),
)


def replica(recursive_triggers: bool = False) -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute(f"PRAGMA recursive_triggers = {int(recursive_triggers)}")
    conn.executescript(f"BEGIN; {sqlite_ddl(SCHEMA)} COMMIT;")
    return conn


@pytest.fixture(params=[False, True], ids=["", "recursive_triggers"])
def db(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with closing(replica(request.param)) as conn:
        yield conn


def acknowledged(conn: sqlite3.Connection, row: str = A, rev: int = 7, **values: Any) -> None:
    """A row as the sync puts it."""
    columns = {"id": row, "_rev": rev, **values}
    conn.execute('UPDATE "_sync_state" SET "applying" = 1')
    names, marks = ", ".join(f'"{n}"' for n in columns), ", ".join("?" * len(columns))
    conn.execute(f'INSERT INTO "order" ({names}) VALUES ({marks})', tuple(columns.values()))
    conn.execute('UPDATE "_sync_state" SET "applying" = 0')


def test_insert_is_a_create_with_wire_values(db: sqlite3.Connection) -> None:
    db.execute(
        'INSERT INTO "order" (id, status, quantity, paid, done, due_at, extra, signature, weight)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (A, 'a "b"\n', 2**60, "12.50", True, "2026-11-21 09:00:00", '{"k": [1, null]}', b"\x00\xff", 0.1 + 0.2),
    )
    (mutation,) = outbox(db)
    assert mutation == {
        "entity": "order",
        "row": A,
        "op": "create",
        "set": {
            "status": 'a "b"\n',
            "note": "none",
            "quantity": str(2**60),
            "paid": "12.50",
            "done": True,
            "due_at": "2026-11-21T09:00:00Z",
            "extra": {"k": [1, None]},
            "signature": "AP8=",
            "weight": 0.1 + 0.2,
        },
    }
    ((mutation_id, made_at),) = db.execute('SELECT "id", "made_at" FROM "_sync_outbox"')
    assert UUID4.fullmatch(mutation_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", made_at)


def test_create_sends_null_only_where_it_is_meant(db: sqlite3.Connection) -> None:
    db.execute('INSERT INTO "order" (id, status, note) VALUES (?, NULL, NULL)', (A,))
    assert outbox(db)[0]["set"] == {"note": None}  # status may not be NULL: the server's default holds


def test_id_left_out_is_made(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO \"order\" (status) VALUES ('x'), ('y')")
    made = [row for (row,) in db.execute('SELECT id FROM "order" ORDER BY rowid')]
    assert all(UUID4.fullmatch(row) for row in made)
    assert [m["row"] for m in outbox(db)] == made


def test_update_sends_only_what_changed_with_the_old_base(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new", note="x")
    db.execute("UPDATE \"order\" SET status = 'done', note = 'x'")
    db.execute('UPDATE "order" SET note = NULL')
    first, second = outbox(db)
    assert (first["op"], first["base"], first["set"]) == ("update", 7, {"status": "done"})
    assert (second["base"], second["set"]) == (7, {"note": None})


def test_update_that_changes_nothing_is_no_mutation(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new", price="12.50")
    db.execute('UPDATE "order" SET status = status, price = 12.5')
    assert outbox(db) == []


def test_delete_carries_the_base(db: sqlite3.Connection) -> None:
    acknowledged(db)
    db.execute('DELETE FROM "order"')
    assert outbox(db) == [{"entity": "order", "row": A, "op": "delete", "base": 7}]


def test_counter_travels_as_difference(db: sqlite3.Connection) -> None:
    acknowledged(db, quantity=5, paid="10.50")
    db.execute('UPDATE "order" SET quantity = quantity - 2, paid = paid + 0.75')
    (mutation,) = outbox(db)
    assert mutation["add"] == {"quantity": -2, "paid": "0.75"}
    assert "set" not in mutation


@pytest.mark.parametrize(
    ("old", "new", "sent"),
    [
        (None, 5, {"set": {"quantity": 5}}),  # nothing to add to
        (5, None, {"set": {"quantity": None}}),
        (5, "many", {"set": {"quantity": "many"}}),  # the server says that it is no number
        (-(2**63), 2**63 - 1, {"set": {"quantity": str(2**63 - 1)}}),  # the difference has no 64 bits
        (0, 2**60, {"add": {"quantity": str(2**60)}}),
    ],
)
def test_counter_that_cannot_be_added_is_set(db: sqlite3.Connection, old: Any, new: Any, sent: Any) -> None:
    acknowledged(db, quantity=old)
    db.execute('UPDATE "order" SET quantity = ?', (new,))
    (mutation,) = outbox(db)
    assert {n: mutation[n] for n in ("set", "add") if n in mutation} == sent


decimals = st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False, places=6) | st.integers(-99, 99).map(
    Decimal
)


@pytest.mark.slow
@given(decimals, decimals)
def test_decimal_difference_is_exact(old: Decimal, new: Decimal) -> None:
    with closing(replica()) as db:
        acknowledged(db, paid=f"{old:f}")
        db.execute('UPDATE "order" SET paid = ?', (f"{new:f}",))
        sent = outbox(db)
        assert [Decimal(m["add"]["paid"]) for m in sent] == [new - old] * len(sent)
        assert bool(sent) or new == old


@pytest.mark.parametrize("number", ["1234567890123456789.5", "1e20", "1.2.3", "-", "x"])
def test_decimal_counter_beyond_exactness_is_set(db: sqlite3.Connection, number: str) -> None:
    acknowledged(db, paid="1")
    db.execute('UPDATE "order" SET paid = ?', (number,))
    (mutation,) = outbox(db)
    assert list(mutation["set"]) == ["paid"]
    assert "add" not in mutation


def test_infinity_travels_as_text_for_the_server_to_refuse(db: sqlite3.Connection) -> None:
    acknowledged(db, quantity=1)
    db.execute('UPDATE "order" SET quantity = 9e999, done = 9e999, weight = -9e999')
    (mutation,) = outbox(db)
    assert mutation["set"] == {"quantity": "Inf", "done": "Inf", "weight": "-Inf"}


def test_read_only_field_is_never_sent(db: sqlite3.Connection) -> None:
    acknowledged(db, total="1")
    db.execute("UPDATE \"order\" SET total = '2'")
    db.execute("INSERT INTO \"order\" (id, total) VALUES (?, '3')", (B,))
    assert [m["set"] for m in outbox(db)] == [{"status": "new", "note": "none"}]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 1000])
def test_blob_travels_as_base64(db: sqlite3.Connection, size: int) -> None:
    blob = os.urandom(size)
    db.execute('INSERT INTO "order" (id, signature) VALUES (?, ?)', (A, blob))
    assert outbox(db)[0]["set"]["signature"] == base64.b64encode(blob).decode()


@pytest.mark.slow
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_real_keeps_every_bit(value: float) -> None:
    with closing(replica()) as db:
        db.execute('INSERT INTO "order" (id, weight) VALUES (?, ?)', (A, value))
        (kept,) = db.execute('SELECT weight FROM "order"').fetchone()
        assert outbox(db)[0]["set"]["weight"] == pytest.approx(kept, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2026-11-21T09:00:00.000001Z", "2026-11-21T09:00:00.000001Z"),
        ("2026-11-21 09:00:00.5", "2026-11-21T09:00:00.5Z"),
        ("2026-11-21T09:00:00+02:00", "2026-11-21T09:00:00+02:00"),
        ("2026-11-21 09:00:00-03", "2026-11-21 09:00:00-03"),
        ("soon", "soon"),  # the server says that it is no time
    ],
)
def test_datetime_without_zone_is_utc(db: sqlite3.Connection, written: str, sent: str) -> None:
    db.execute('INSERT INTO "order" (id, due_at) VALUES (?, ?)', (A, written))
    assert outbox(db)[0]["set"]["due_at"] == sent


# INSERT OR REPLACE, upsert and their kin ----------------------------------------------------------------------------


def test_replace_of_a_row_is_an_update_of_what_changed(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new", note="x", quantity=5, paid="1.5", extra='{"a":1}', signature=b"\x01", done=1)
    db.execute(
        'REPLACE INTO "order" (id, status, note, quantity, paid, extra, signature, done) VALUES (?,?,?,?,?,?,?,?)',
        (A, "done", "x", 3, "1.50", '{"a": 1}', b"\x01", 1),
    )
    (mutation,) = outbox(db)
    assert mutation == {
        "entity": "order",
        "row": A,
        "op": "update",
        "base": 7,
        "set": {"status": "done"},
        "add": {"quantity": -2},
    }
    assert db.execute('SELECT _rev FROM "order"').fetchone() == (7,)


def test_replace_of_itself_is_no_mutation(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new", signature=os.urandom(50), weight=0.1, due_at="2026-11-21 09:00:00")
    db.execute('INSERT OR REPLACE INTO "order" SELECT * FROM "order"')
    assert outbox(db) == []


def test_replace_of_no_row_is_a_create(db: sqlite3.Connection) -> None:
    db.execute('REPLACE INTO "order" (id, _rev) VALUES (?, 99)', (A,))
    assert [m["op"] for m in outbox(db)] == ["create"]
    assert db.execute('SELECT _rev FROM "order"').fetchone() == (None,)


def test_many_rows_in_one_statement_are_told_apart(db: sqlite3.Connection) -> None:
    acknowledged(db, A, 3, status="a")
    acknowledged(db, B, 4, status="b")
    db.execute('REPLACE INTO "order" (id, status) VALUES (?, ?), (?, ?), (?, ?)', (C, "c", B, "bb", A, "aa"))
    assert [(m["row"], m["op"], m.get("base")) for m in outbox(db)] == [
        (C, "create", None),
        (B, "update", 4),
        (A, "update", 3),
    ]


def test_upsert_is_an_update(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new")
    db.execute(
        "INSERT INTO \"order\" (id, status) VALUES (?, 'done') ON CONFLICT (id) DO UPDATE SET status = excluded.status",
        (A,),
    )
    assert [(m["op"], m["base"], m["set"]) for m in outbox(db)] == [("update", 7, {"status": "done"})]


def test_ignored_insert_is_no_mutation_and_hides_no_later_delete(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new")
    db.execute("INSERT OR IGNORE INTO \"order\" (id, status) VALUES (?, 'x')", (A,))
    db.execute('DELETE FROM "order"')
    db.execute("INSERT INTO \"order\" (id, status) VALUES (?, 'again')", (A,))
    assert [m["op"] for m in outbox(db)] == ["delete", "create"]


def test_id_cannot_change(db: sqlite3.Connection) -> None:
    acknowledged(db)
    with pytest.raises(sqlite3.IntegrityError, match="the id of a row of order cannot change"):
        db.execute('UPDATE "order" SET id = ?', (B,))


@pytest.mark.parametrize("bad", [A.upper().replace("0", "A"), "7", "-" * 36, A + "0"])
def test_id_must_be_a_uuid(db: sqlite3.Connection, bad: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="uuid in lower case"):
        db.execute('INSERT OR IGNORE INTO "order" (id) VALUES (?)', (bad,))


def test_rev_is_not_the_applications(db: sqlite3.Connection) -> None:
    acknowledged(db, status="new")
    db.execute("UPDATE \"order\" SET _rev = 1, status = 'done'")
    assert db.execute('SELECT _rev, status FROM "order"').fetchone() == (7, "done")
    assert [m["base"] for m in outbox(db)] == [7]
    db.execute("UPDATE \"order\" SET status = 'recorded still'")
    assert len(outbox(db)) == 2


@pytest.mark.parametrize(
    "statement",
    ["INSERT {} INTO product (name) VALUES ('x')", "UPDATE {} product SET name = 'x'", "DELETE FROM product"],
)
@pytest.mark.parametrize("clause", ["", "OR IGNORE", "OR REPLACE"])
def test_read_only_entity_refuses_writes(db: sqlite3.Connection, statement: str, clause: str) -> None:
    db.execute('UPDATE "_sync_state" SET "applying" = 1')
    db.execute("INSERT INTO product (id, name) VALUES (?, 'tea')", (A,))
    db.execute('UPDATE "_sync_state" SET "applying" = 0')
    with pytest.raises(sqlite3.IntegrityError, match="product is read-only on devices"):
        db.execute(statement.format(clause))


def test_what_is_applied_is_not_recorded(db: sqlite3.Connection) -> None:
    acknowledged(db)
    db.execute('UPDATE "_sync_state" SET "applying" = 1')
    db.execute("UPDATE \"order\" SET status = 'x', _rev = 8")
    db.execute('DELETE FROM "order"')
    assert outbox(db) == []


def test_group_is_on_every_edit_until_it_is_closed(db: sqlite3.Connection) -> None:
    db.execute('UPDATE "_sync_state" SET "group" = ?', (C,))
    db.execute('INSERT INTO "order" (id) VALUES (?)', (A,))
    db.execute("UPDATE \"order\" SET status = 'x'")
    db.execute('DELETE FROM "order"')
    db.execute('UPDATE "_sync_state" SET "group" = NULL')
    db.execute('INSERT INTO "order" (id) VALUES (?)', (B,))
    assert [m.get("group") for m in outbox(db)] == [C, C, C, None]


def test_group_must_be_a_uuid(db: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        db.execute('UPDATE "_sync_state" SET "group" = \'mine\'')


def test_rollback_takes_the_mutation_along(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    db.execute('INSERT INTO "order" (id) VALUES (?)', (A,))
    db.execute("ROLLBACK")
    assert outbox(db) == []


# The script ---------------------------------------------------------------------------------------------------------


def test_running_it_again_keeps_rows_and_outbox(db: sqlite3.Connection) -> None:
    db.execute('INSERT INTO "order" (id) VALUES (?)', (A,))
    db.executescript(sqlite_ddl(SCHEMA))
    db.execute('INSERT INTO "order" (id) VALUES (?)', (B,))
    assert [m["row"] for m in outbox(db)] == [A, B]


def test_script_holds_the_schema(db: sqlite3.Connection) -> None:
    protocol, document = db.execute('SELECT "protocol", "schema" FROM "_sync_state"').fetchone()
    assert (protocol, json.loads(document)) == (1, SCHEMA)


@pytest.mark.slow
def test_wide_entity_has_no_limit_of_arguments_or_depth() -> None:
    wide = schema(entity("wide", *(field(f"f{n}", "decimal", counter=n % 2 == 0) for n in range(300))))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(sqlite_ddl(wide))
        db.execute("INSERT INTO wide (id, f0, f1, f299) VALUES (?, '1', '1', '1')", (A,))
        db.execute("UPDATE wide SET f0 = '3', f299 = '2'")
        db.execute("REPLACE INTO wide (id, f0, f1, f299) VALUES (?, '4', '1', '2')", (A,))
        assert [(m.get("set"), m.get("add")) for m in outbox(db)] == [
            ({"f0": "1", "f1": "1", "f299": "1"}, None),
            ({"f299": "2"}, {"f0": "2"}),
            (None, {"f0": "1"}),
        ]


def test_defaults_of_every_type_are_the_columns() -> None:
    values = {
        "text": "it's",
        "integer": -3,
        "real": 0.5,
        "decimal": "1.50",
        "boolean": True,
        "json": {"a": [1]},
        "binary": "AAE=",
    }
    columns = schema(entity("thing", *(field(f"a_{kind}", kind, default=value) for kind, value in values.items())))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(sqlite_ddl(columns))
        db.execute("INSERT INTO thing (id) VALUES (?)", (A,))
        assert db.execute("SELECT * FROM thing").fetchone() == (
            *(A, None, "it's", -3, 0.5, "1.50", 1, '{"a":[1]}', b"\x00\x01"),
        )
        assert outbox(db)[0]["set"] == {f"a_{kind}": value for kind, value in values.items()}


@pytest.mark.parametrize(
    "bad",
    [
        entity('x"y', field("a", "text")),
        entity("_sync_state", field("a", "text")),
        entity("x", field("id", "uuid")),
        entity("x", field("_rev", "integer")),
        entity("x", field("a", "hstore")),
    ],
)
def test_name_or_type_without_a_place_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"replica|key|SQLite"):
        sqlite_ddl(schema(bad))
