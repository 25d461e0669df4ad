"""What pull promises (rules P1 to P9 of docs/protocol.md), against real concurrent transactions."""

import contextlib
import random
import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from entities.models import Contact
from sync.prune import prune
from sync.token import decode, encode
from tests.integration.sync_support import (
    CONTACT,
    TestDevice,
    contact,
    create,
    new_customer,
    new_id,
    other_connection,
    problem,
    sql,
    tick_of_long_ago,
)

pytestmark = pytest.mark.django_db(transaction=True)


# --- P1: nothing is missed ---


@pytest.mark.protocol("P1")
def test_pull_brings_a_row_that_committed_after_a_later_one_was_read() -> None:
    device, early, late = TestDevice(), new_id(), new_id()
    with other_connection() as first, other_connection() as second:
        first.execute(CONTACT, [early, "began first"])
        second.execute(CONTACT, [late, "began second"])
        second.commit()
        device.pull()
        assert set(device.of("contact")) == {late}
        first.commit()
        device.pull()
    assert set(device.of("contact")) == {early, late}


@pytest.mark.protocol("P1")
def test_pull_after_a_commit_brings_it_whatever_else_is_open() -> None:
    device, row, held = TestDevice(), new_id(), new_id()
    device.pull()
    with other_connection() as long, other_connection() as short:
        long.execute(CONTACT, [held, "open for long"])
        for number in range(3):
            short.execute("DELETE FROM entities_contact WHERE id = %s", [row])
            short.execute(CONTACT, [row, str(number)])
            short.commit()
            device.pull()
            assert device.of("contact")[row]["first_name"] == str(number)
        long.commit()
        device.pull()
    assert set(device.of("contact")) == {row, held}


@pytest.mark.slow
@pytest.mark.protocol("P1")
@pytest.mark.parametrize("seed", range(3))
def test_pull_misses_and_tears_nothing_while_many_write(seed: int) -> None:
    """Six writers with transactions of all lengths, one reader with pages of all sizes."""
    pair = [str(new_customer(name=name).pk) for name in ("first", "second")]
    device, stop = TestDevice(), threading.Event()
    writers = [threading.Thread(target=write_at_random, args=(seed * 10 + n, pair, stop)) for n in range(6)]
    for writer in writers:
        writer.start()
    try:
        chance, until = random.Random(seed), time.monotonic() + 1.5
        while time.monotonic() < until:
            # A page at a time: six writers are faster than a reader whose pages hold one row.
            if not device.step(chance.choice([1, 2, 3, 20, 1_000])):
                assert len({device.of("customer")[row]["city"] for row in pair}) == 1
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    device.pull(7)
    held = {row_id: row["note"] for row_id, row in device.of("contact").items()}
    assert held == {str(row.pk): row.note for row in Contact.objects.all()}


def write_at_random(seed: int, pair: list[str], stop: threading.Event) -> None:
    chance, rows = random.Random(seed), [new_id()]
    with other_connection() as conn:
        while not stop.is_set():
            for _ in range(chance.randint(1, 4)):
                row, act = chance.choice(rows), chance.random()
                if act < 0.4:
                    rows.append(new_id())
                    conn.execute(CONTACT, [rows[-1], "x"])
                elif act < 0.8:
                    conn.execute("UPDATE entities_contact SET note = %s WHERE id = %s", [str(act), row])
                else:
                    conn.execute("DELETE FROM entities_contact WHERE id = %s", [row])
                if chance.random() < 0.2:
                    time.sleep(chance.random() * 0.03)
            with contextlib.suppress(psycopg.errors.DeadlockDetected):  # over the pair; then nothing of it was written
                conn.execute("UPDATE entities_customer SET city = %s WHERE id = ANY (%s)", [str(chance.random()), pair])
                if chance.random() < 0.1:
                    conn.rollback()
            conn.commit()


# --- P2: nothing is torn ---


@pytest.mark.protocol("P2")
def test_pull_tears_no_transaction_that_a_later_open_one_overlaps() -> None:
    """A later change of one of two rows must not hide that both were changed together."""
    device, rows = TestDevice(), [contact(), contact()]
    device.pull()
    with other_connection() as held:
        Contact.objects.filter(pk__in=rows).update(note="together")
        held.execute(CONTACT, [new_id(), "open"])
        Contact.objects.filter(pk=rows[1]).update(phone="1")
        device.pull()
        assert {device.of("contact")[row]["note"] for row in rows} == {"together"}
        held.rollback()


@pytest.mark.protocol("P2")
def test_pull_run_of_pages_ends_with_the_state_of_one_moment() -> None:
    device, rows = TestDevice(), [contact() for _ in range(5)]
    assert device.step(2)
    Contact.objects.filter(pk__in=rows).update(note="new")
    late = contact("late")
    device.pull(2)
    assert {row["note"] for row_id, row in device.of("contact").items() if row_id != late} == {"new"}
    assert set(device.of("contact")) == {*rows, late}


@pytest.mark.protocol("P2")
def test_pull_splits_a_transaction_that_is_larger_than_a_page() -> None:
    Contact.objects.bulk_create(Contact(first_name=str(n)) for n in range(50))
    device = TestDevice()
    device.pull(7)
    assert len(device.of("contact")) == 50


# --- P3: at least once; P4: every writer counts ---


@pytest.mark.protocol("P3")
def test_pull_with_the_same_token_brings_the_same_rows_or_later_states() -> None:
    device, row = TestDevice(), contact()
    device.pull()
    token = device.token
    Contact.objects.filter(pk=row).update(note="1")
    first = device.page(token)["changes"]
    Contact.objects.filter(pk=row).update(note="2")
    again = device.page(token)["changes"]
    assert [c["contact"]["upserts"][0]["note"] for c in (first, again)] == ["1", "2"]


@pytest.mark.protocol("P4")
def test_pull_tells_ten_changes_as_one_row_in_its_latest_state() -> None:
    device, row = TestDevice(), contact()
    device.pull()
    for number in range(10):
        Contact.objects.filter(pk=row).update(note=str(number))
    (told,) = device.page(device.token)["changes"]["contact"]["upserts"]
    assert (told["note"], told["_rev"]) == ("9", 11)


@pytest.mark.protocol("P4")
def test_pull_tells_a_delete_and_a_truncate() -> None:
    device, rows = TestDevice(), [contact(), contact()]
    device.pull()
    Contact.objects.filter(pk=rows[0]).delete()
    assert device.page(device.token)["changes"]["contact"] == {"upserts": [], "deletes": [rows[0]]}
    sql("TRUNCATE entities_contact")
    device.pull()
    assert device.of("contact") == {}


# --- P6: cost ---


@pytest.mark.protocol("P6")
def test_pull_with_nothing_new_is_one_query_and_writes_nothing() -> None:
    device = TestDevice()
    device.pull()
    device.pull()
    before = sql("SELECT pg_current_xact_id_if_assigned()::text, xmin::text FROM devices_device")
    with CaptureQueriesContext(connection) as queries:
        device.pull()
    assert queries.captured_queries == []  # the one query goes past Django's log, and nothing else is asked
    assert sql("SELECT pg_current_xact_id_if_assigned()::text, xmin::text FROM devices_device") == before


@pytest.mark.protocol("P6")
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM sync_feed WHERE scope = 'global' AND (xid, seq) > ('4990', 0) ORDER BY xid, seq LIMIT 10",
        "SELECT FROM sync_feed f WHERE f.scope = ANY (ARRAY(SELECT scope FROM devices_granted)) AND f.xid >= '4990'",
    ],
)
def test_pull_reads_a_scope_by_its_index(query: str) -> None:
    with transaction.atomic():
        sql(
            "INSERT INTO sync_feed (scope, entity, row_id, rev, xid, seq)"
            " SELECT 'store:' || mod(n, 20), 'contact', gen_random_uuid(), 1, n::text::xid8, n"
            " FROM generate_series(1, 5000) n"
        )
        sql("ANALYZE sync_feed")  # of an empty table the planner thinks what others have left there
        for setting in ("enable_sort", "enable_seqscan", "enable_bitmapscan"):  # as the function does
            sql(f"SET LOCAL {setting} = off")
        assert "using sync_feed_position" in str(sql(f"EXPLAIN {query}"))
        transaction.set_rollback(True)


@pytest.mark.protocol("P6")
@pytest.mark.parametrize("position", [">= '5'", "= ANY (ARRAY['5', '7']::xid8[])"])
def test_pull_reads_what_was_written_last_by_its_index(position: str) -> None:
    with transaction.atomic():
        for setting in ("enable_sort", "enable_seqscan", "enable_bitmapscan"):
            sql(f"SET LOCAL {setting} = off")
        query = f"SELECT f.scope FROM sync_feed f WHERE f.xid {position} AND f.rev > 0 ORDER BY f.xid LIMIT 50"
        assert "using sync_feed_recent" in str(sql(f"EXPLAIN {query}"))


# --- P7: pages ---


@pytest.mark.protocol("P7")
@pytest.mark.parametrize("limit", [1, 2, 3, 10_000])
def test_pull_pages_hold_at_most_the_limit_and_together_everything(limit: int) -> None:
    rows = {contact(str(n)) for n in range(7)}
    device, found, more = TestDevice(), set(), True
    while more:
        page = device.page(device.token, limit)
        told = [row["id"] for change in page["changes"].values() for row in change["upserts"]]
        assert len(told) <= limit
        found |= set(told)
        device.token, more = page["token"], page["has_more"]
    assert rows <= found


@pytest.mark.protocol("P7")
def test_pull_page_is_capped_by_bytes_and_never_empty(settings: Settings) -> None:
    settings.SYNC_PULL_PAGE_BYTES_MAX = 1_000
    for _ in range(5):
        Contact.objects.create(first_name="A", note="x" * 800)
    device = TestDevice()
    assert [device.step() for _ in range(3)] == [True, True, True]
    device.pull()
    assert len(device.of("contact")) == 5


@pytest.mark.protocol("P7")
@pytest.mark.parametrize("limit", ["0", "10001", "x", "-1", "1.5"])
def test_pull_limit_out_of_range_returns_400(limit: str) -> None:
    assert problem(TestDevice().ask(None, limit)) == (400, "invalid_request")


# --- P8: tokens ---


@pytest.mark.protocol("P8")
@pytest.mark.parametrize("token", ["", "x", "a" * 100, "é", "%00", "AAAA" * 2_000])
def test_pull_token_that_the_server_did_not_make_returns_400(token: str) -> None:
    assert problem(TestDevice().ask(token)) == (400, "invalid_token")


@pytest.mark.protocol("P8")
def test_pull_token_with_a_changed_byte_returns_400() -> None:
    device = TestDevice()
    device.pull()
    assert device.token
    changed = device.token[:-2] + ("A" if device.token[-2] != "A" else "B") + device.token[-1]
    assert problem(device.ask(changed)) == (400, "invalid_token")


def reread(device: TestDevice, **changes: Any) -> str:
    """The device's token with something else in it, signed by this server."""
    assert device.token
    key = settings.SECRET_KEY.encode()
    token = decode(device.token, [key])
    return encode(replace(token, **changes), key)


@pytest.mark.protocol("P8")
def test_pull_token_from_the_servers_future_returns_410() -> None:
    from sync.token import Snapshot

    device = TestDevice()
    device.pull()
    assert problem(device.ask(reread(device, base=Snapshot("900000000:900000000:")))) == (410, "token_expired")


@pytest.mark.protocol("P8")
def test_pull_after_a_restore_returns_410_and_a_fresh_load_is_whole() -> None:
    device, row = TestDevice(), contact()
    device.pull()
    sql("UPDATE sync_epoch SET database_identity = 'the database of before'")
    # As in another cluster: the entries seem to be of transactions to come.
    sql("UPDATE sync_feed SET xid = '900000000'")
    answer = device.ask(device.token)
    assert (problem(answer), answer.json()["restored"]) == ((410, "token_expired"), True)
    device.token, device.rows = None, {}
    device.pull()
    assert set(device.of("contact")) == {row}
    assert device.page(device.token)["changes"] == {}


@pytest.mark.protocol("P8")
def test_pull_token_older_than_forgotten_deletions_returns_410(settings: Settings) -> None:
    old, row = TestDevice(), contact()
    old.pull()
    Contact.objects.filter(pk=row).delete()
    tick_of_long_ago()
    current = TestDevice()
    current.pull()
    assert prune()["tombstones"] >= 1
    answer = old.ask(old.token)
    assert (problem(answer), "restored" in answer.json()) == ((410, "token_expired"), False)
    assert current.page(current.token)["has_more"] is False


@pytest.mark.protocol("P8")
def test_prune_keeps_the_deletions_that_tokens_may_still_need() -> None:
    device, row = TestDevice(), contact()
    device.pull()
    Contact.objects.filter(pk=row).delete()
    prune()
    device.pull()
    assert device.of("contact") == {}


# --- P9: who may pull ---


@pytest.mark.protocol("P9")
def test_pull_without_with_a_wrong_and_with_a_revoked_token_returns_401() -> None:
    device = TestDevice()
    right = device.headers
    device.headers = {}
    assert problem(device.ask(None)) == (401, "unauthorized")
    device.headers = {"authorization": "Bearer wrong"}
    assert problem(device.ask(None)) == (401, "unauthorized")
    device.headers = right
    sql("UPDATE devices_device SET revoked_at = now(), wipe = true")
    answer = device.ask(None)
    assert problem(answer) == (401, "device_revoked")
    assert answer.json()["wipe"] is True


@pytest.mark.protocol("P9")
def test_pull_of_a_pushed_row_is_the_row_that_was_pushed() -> None:
    first, second = TestDevice(), TestDevice()
    made = create(first_name="Zoë", note='"\\\n\t☃')
    assert first.statuses(made) == ["applied"]
    second.pull()
    row = second.of("contact")[made["row"]]
    assert (row["first_name"], row["note"], row["_rev"]) == ("Zoë", '"\\\n\t☃', 1)
