"""`manage.py sync_verify`: what is wrong in the feed is found row by row, and mended; what is right is left alone."""

import json
import threading
import uuid
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, models

from entities.models import Contact
from sync import verify as module
from sync.declare import scope, synced
from sync.verify import PROBLEMS, verify
from sync.wire import entities
from tests.integration.model_support import installed, model
from tests.integration.sync_support import (
    CONTACT,
    TestDevice,
    contact,
    employee,
    feed,
    history,
    order,
    other_connection,
    sql,
)

pytestmark = pytest.mark.django_db(transaction=True)


REPAIRS = "SELECT count(*) FROM sync_history WHERE author = 'verify'"


@pytest.fixture(autouse=True)
def empty_feed() -> None:
    """Without what other tests left in it, as it has no model that would be emptied."""
    sql("DELETE FROM sync_feed")


def run(*arguments: str) -> tuple[int, str]:
    """The exit code and what was printed."""
    out = StringIO()
    try:
        call_command("sync_verify", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def problems(entity: str, *arguments: str) -> tuple[dict[str, str], int]:
    """What is wrong with which row, and how many were repaired."""
    _, out = run("--json", "--entity", entity, *arguments)
    (verdict,) = json.loads(out)["entities"]
    assert sum(verdict["problems"].values()) == len(verdict["examples"])
    return verdict["examples"], verdict["repaired"]


def many(count: int) -> list[str]:
    rows = sql(
        "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
        " SELECT gen_random_uuid(), 'A', '', '', '', '', '' FROM generate_series(1, %s) RETURNING id::text",
        [count],
    )
    return sorted(row for (row,) in rows)


def surplus(row: str) -> None:
    sql(
        "INSERT INTO sync_feed SELECT %s, entity, scope, 7, xid, seq, replace(data, row_id::text, %s)"
        " FROM sync_feed WHERE entity = 'contact' LIMIT 1",
        [row, row],
    )


STALE = """UPDATE sync_feed SET data = replace(data, '"A"', '"B"') WHERE row_id = %s"""
CHANGES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "missing": ("missing", lambda row: sql("DELETE FROM sync_feed WHERE row_id = %s", [row])),
    "tombstone": ("missing", lambda row: sql("UPDATE sync_feed SET data = NULL WHERE row_id = %s", [row])),
    "stale": ("stale", lambda row: sql(STALE, [row])),
    "unreadable": ("stale", lambda row: sql("UPDATE sync_feed SET data = left(data, 30) WHERE row_id = %s", [row])),
    "revision": ("revision", lambda row: sql("UPDATE sync_feed SET rev = 5 WHERE row_id = %s", [row])),
    "scope": ("scope", lambda row: sql("UPDATE sync_feed SET scope = 'other' WHERE row_id = %s", [row])),
    "surplus": ("surplus", surplus),
}  # fmt: skip


def test_verify_finds_and_repairs_row_by_row_what_is_wrong_in_the_feed(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 300)
    rows = many(3_000)
    device = TestDevice()
    device.pull()
    before = {row: feed(row) for row in rows}
    planted: dict[str, str] = {}
    for number, (problem, change) in enumerate(CHANGES.values()):
        for place in range(2):
            row = str(uuid.uuid4()) if problem == "surplus" else rows[number * 400 + place * 199]
            change(row)
            planted[row] = problem
    assert problems("contact") == (planted, 0)
    assert problems("contact") == (planted, 0)  # it only looked
    assert problems("contact", "--repair") == (planted, len(planted))
    assert problems("contact") == ({}, 0)
    assert {row: feed(row) for row in rows if row not in planted} == {
        row: entry for row, entry in before.items() if row not in planted
    }
    token = device.token
    device.pull()
    page = device.page(token)["changes"]["contact"]
    assert {row["id"] for row in page["upserts"]} == {row for row, p in planted.items() if p != "surplus"}
    assert set(page["deletes"]) == {row for row, problem in planted.items() if problem == "surplus"}
    assert {row: values["first_name"] for row, values in device.of("contact").items()} == dict.fromkeys(rows, "A")
    for row, values in device.of("contact").items():
        assert values["_rev"] == feed(row)["global"][0]


@pytest.mark.parametrize("kind", list(CHANGES))
def test_repair_is_a_change_of_its_own_in_the_history(kind: str) -> None:
    row = contact("A")
    contact("A")
    problem, change = CHANGES[kind]
    if problem == "surplus":
        row = str(uuid.uuid4())
    change(row)
    ((highest,),) = sql("SELECT coalesce(max(rev), 0) FROM sync_feed WHERE row_id = %s", [row])
    assert problems("contact", "--repair") == ({row: problem}, 1)
    rev, op, author, *_ = history(row)[-1]
    assert (rev, author) == (highest + 1, "verify")
    known = {"stale": "update", "revision": "update", "scope": "update", "surplus": "delete"}
    assert op == known.get(kind, "insert")


def test_repair_tells_the_history_what_was_stale() -> None:
    row = contact("A")
    CHANGES["stale"][1](row)
    run("--repair")
    assert history(row)[-1] == (2, "update", "verify", '{"first_name": "B"}', '{"first_name": "A"}')


def test_repair_takes_a_row_away_from_those_who_may_not_see_it() -> None:
    mine, other = employee(1), employee(2)
    made = order(mine)
    row = str(made.pk)
    sql(
        "INSERT INTO sync_feed SELECT row_id, entity, %s, rev, xid, seq, data FROM sync_feed WHERE row_id = %s",
        [f"employee:{other}", row],
    )
    thief = TestDevice(f"employee:{other}")
    thief.pull()
    assert thief.of("order")
    assert problems("order", "--repair") == ({row: "scope"}, 1)
    thief.pull()
    assert not thief.of("order")
    assert feed(row) == {f"employee:{mine}": (2, True), f"employee:{other}": (2, False)}


def test_verify_finds_what_a_writer_did_while_the_triggers_were_off() -> None:
    row, gone = contact(), contact()
    sql("ALTER TABLE entities_contact DISABLE TRIGGER USER")
    Contact.objects.filter(pk=row).update(first_name="silently")
    Contact.objects.filter(pk=gone).delete()
    late = contact("late")
    try:
        code, out = run()
        assert code == 1
        assert "contact: the capture triggers are not in force. Run manage.py migrate" in out
        code, out = run("--repair", "--json")
        assert (code, json.loads(out)["capture_out_of_date"]) == (1, ["contact"])
    finally:
        for op in ("insert", "update", "delete", "truncate"):
            sql(f"ALTER TABLE entities_contact ENABLE ALWAYS TRIGGER sync_capture_{op}")
    device = TestDevice()
    device.pull()
    assert {row: values["first_name"] for row, values in device.of("contact").items()} == {
        row: "silently",
        late: "late",
    }
    assert run() == (0, run()[1])


def test_verify_of_a_sound_feed_says_so_and_ends_with_0() -> None:
    order(employee(1))
    Contact.objects.filter(pk=contact()).delete()
    before = sql(REPAIRS)
    code, out = run("--repair")
    assert code == 0
    assert "The feed is what the tables say." in out
    assert sql(REPAIRS) == before


def test_scopes_of_a_row_are_in_the_order_of_the_feed_whatever_the_collation_of_the_database() -> None:
    """The embedded PostgreSQL has no other order to try it with: elsewhere `_` may come before `:`, so it is asked."""
    site = model("Site", shop=models.CharField(max_length=9), area=models.CharField(max_length=9))
    synced(scopes=[scope("shop", "shop"), scope("shop_area", "area")])(site)
    with installed([site]):
        row = str(site._default_manager.create(shop="x", area="a").pk)
        scopes = entities()["site"].scopes_sql("t")
        assert sql(f"SELECT {scopes}, pg_collation_for({scopes}) FROM entities_site t") == [
            (["shop:x", "shop_area:a"], '"C"')
        ]
        assert problems("site", "--repair") == ({}, 0)
        assert feed(row) == {"shop:x": (1, True), "shop_area:a": (1, True)}
        site._default_manager.all().delete()


def test_verify_says_what_to_do_and_names_the_rows() -> None:
    row = contact()
    CHANGES["missing"][1](row)
    code, out = run("--entity", "contact")
    assert code == 1
    assert f"contact {row}: missing" in out
    assert "Run sync_verify --repair" in out
    code, out = run("--entity", "contact", "--repair")
    assert code == 0


def test_verify_takes_another_way_of_writing_the_same_json_for_the_same() -> None:
    row = contact()
    sql("UPDATE sync_feed SET data = data::jsonb::text WHERE row_id = %s", [row])
    assert problems("contact") == ({}, 0)


def test_verify_beside_traffic_raises_no_false_alarm(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 50)
    rows = many(400)
    stop = threading.Event()

    def write(part: list[str]) -> None:
        with other_connection() as other:
            other.autocommit = True
            while not stop.is_set():
                for row in part[::7]:
                    other.execute("UPDATE entities_contact SET title = %s WHERE id = %s", [uuid.uuid4().hex, row])
                    other.execute("DELETE FROM entities_contact WHERE id = %s", [row])
                    other.execute(CONTACT, [row, "again"])

    writers = [threading.Thread(target=write, args=(rows[half::2],)) for half in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(4):
            for repair in (False, True):
                (verdict,) = verify(["contact"], repair=repair, progress=lambda *_: None)
                assert verdict.problems == dict.fromkeys(PROBLEMS, 0)
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_repair_waits_for_a_writer_and_takes_what_it_wrote() -> None:
    row = contact("A")
    CHANGES["missing"][1](row)
    with other_connection() as other:
        other.execute("UPDATE entities_contact SET first_name = 'B' WHERE id = %s", [row])
        found: list[Any] = []
        with other_connection() as third:
            watched = threading.Thread(target=lambda: found.append(_in_thread()))
            watched.start()
            while not third.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                third.rollback()
        other.commit()
        watched.join()
    assert found[0].wrong == found[0].repaired
    device = TestDevice()
    device.pull()
    assert device.of("contact")[row]["first_name"] == "B"


def _in_thread() -> Any:
    try:
        return verify(["contact"], repair=True, progress=lambda *_: None)[0]
    finally:
        connection.close()


def test_repair_that_others_are_in_the_way_of_is_left_to_the_next_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.01)
    row = contact("A")
    CHANGES["stale"][1](row)
    with other_connection() as other:
        other.execute("UPDATE entities_contact SET first_name = 'B' WHERE id = %s", [row])
        code, out = run("--repair", "--entity", "contact")
    assert code == 1
    assert "1 not repaired, as others were in the way" in out
    assert run("--repair", "--entity", "contact")[0] == 0
