"""`/sync/digest` and `/sync/rows`: D1 to D4 of `docs/protocol.md`."""

import hashlib
import uuid
from typing import Any

import pytest
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from devices.enroll import revoke
from entities.models import Contact, Order, Product
from sync import digest
from sync.pull import pull
from sync.wire import entities
from tests.integration.sync_support import CONTACT, TestDevice, contact, employee, order, other_connection, problem, sql

pytestmark = pytest.mark.django_db(transaction=True)
Held = dict[str, int]
ROW = "0198a2f0-1c1e-7d0a-8f7e-3b1f6f2c0001"


def ask(device: TestDevice, token: str | None = None, **query: str) -> Any:
    token = token or device.token
    return Client().get("/sync/digest", query | ({"token": token} if token else {}), headers=device.headers)


def told(device: TestDevice, **query: str) -> Any:
    answer = ask(device, **query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def rows(device: TestDevice, body: Any, status: int = 200) -> Any:
    answer = Client().post("/sync/rows", body, "application/json", headers=device.headers)
    assert answer.status_code == status, answer.content
    return answer.json()


def model(held: Held) -> dict[str, Any]:
    """What a digest is: a plain reading of the protocol."""
    lines = "".join(f"{row} {held[row]}\n" for row in sorted(held))
    return {"count": len(held), "digest": hashlib.sha256(lines.encode()).hexdigest()}


def bucket_of(row: str) -> str:
    return hashlib.sha256(row.encode()).hexdigest()[:2]


def held(device: TestDevice, entity: str) -> Held:
    return {row: values["_rev"] for row, values in device.of(entity).items()}


# --- D1, D2: what is digested, and of which moment ---


@pytest.mark.protocol("D1")
def test_digest_is_over_ids_and_revisions_of_what_the_device_must_hold() -> None:
    mine, other = employee(1), employee(2)
    order(mine), order(other)
    edited = contact()
    Contact.objects.filter(pk=edited).update(first_name="Bo")
    Contact.objects.filter(pk=contact()).delete()
    device = TestDevice("global", f"employee:{mine}")
    device.pull()
    assert told(device) == {name: model(held(device, name)) for name in entities()}
    assert held(device, "contact") == {edited: 2}
    assert len(held(device, "order")) == 1


@pytest.mark.protocol("D1")
@given(st.lists(st.tuples(st.sampled_from("cud"), st.integers(0, 30)), max_size=60))
@settings(max_examples=25)
def test_digest_is_that_of_a_plain_model_whatever_happened(steps: list[tuple[str, int]]) -> None:
    Contact.objects.all().delete()
    device = TestDevice()
    expected: Held = {}
    revs: Held = {}
    known = [str(uuid.uuid4()) for _ in range(31)]
    for op, number in steps:
        row = known[number]
        if op == "c" and row not in expected:
            Contact.objects.create(id=row, first_name="A")
        elif op == "u" and row in expected:
            Contact.objects.filter(pk=row).update(first_name=f"B{revs[row]}")
        elif op == "d" and row in expected:
            Contact.objects.filter(pk=row).delete()
            del expected[row]
            revs[row] += 1
            continue
        else:
            continue
        revs[row] = expected[row] = revs.get(row, 0) + 1
    device.pull()
    assert told(device)["contact"] == model(expected)
    buckets = told(device, entity="contact")["buckets"]
    for number, hashed in enumerate(buckets):
        assert hashed == model({r: v for r, v in expected.items() if bucket_of(r) == f"{number:02x}"})["digest"]
    for row in expected:
        assert told(device, entity="contact", bucket=bucket_of(row))["rows"][row] == expected[row]


@pytest.mark.protocol("D1")
def test_digest_counts_a_row_in_two_scopes_of_the_device_once() -> None:
    mine, other = employee(1), employee(2)
    made = order(mine)
    device = TestDevice(f"employee:{mine}", f"employee:{other}")
    device.pull()
    sql(
        "INSERT INTO sync_feed (row_id, entity, scope, rev, xid, seq, data)"
        " SELECT row_id, entity, %s, rev, xid, seq, data FROM sync_feed WHERE row_id = %s",
        [f"employee:{other}", made.pk],
    )
    assert told(device)["order"] == model({str(made.pk): 1})


@pytest.mark.protocol("D2")
def test_digest_with_something_to_pull_returns_409() -> None:
    device = TestDevice()
    device.pull()
    assert told(device)["contact"]["count"] == 0
    made = contact()
    for query in ({}, {"entity": "contact"}, {"entity": "contact", "bucket": "00"}):
        assert problem(ask(device, **query)) == (409, "not_current")
    device.pull()
    assert told(device)["contact"] == model({made: 1})


@pytest.mark.protocol("D2")
def test_digest_in_the_middle_of_a_run_of_pages_returns_409() -> None:
    for _ in range(3):
        contact()
    device = TestDevice()
    assert device.step(limit=1)
    assert problem(ask(device)) == (409, "not_current")
    device.pull()
    assert told(device)["contact"]["count"] == 3


@pytest.mark.protocol("D2")
def test_digest_after_a_scope_came_or_went_returns_409_until_it_is_pulled() -> None:
    who = employee(1)
    order(who)
    device = TestDevice("global")
    device.pull()
    device.grant(f"employee:{who}")
    assert problem(ask(device)) == (409, "not_current")
    device.pull()
    assert told(device)["order"]["count"] == 1
    device.revoke(f"employee:{who}")
    assert problem(ask(device)) == (409, "not_current")
    device.pull()
    assert told(device)["order"]["count"] == 0


@pytest.mark.protocol("D2")
def test_digest_and_the_check_of_its_token_see_one_moment(monkeypatch: Any) -> None:
    """What commits between the two would be in the digest of a device that was called current."""
    device = TestDevice()
    device.pull()
    real = pull

    def pull_then_somebody_writes(*arguments: Any) -> Any:
        page = real(*arguments)
        with other_connection() as other:
            other.execute(CONTACT, [uuid.uuid4(), "Late"])
        return page

    monkeypatch.setattr(digest, "pull", pull_then_somebody_writes)
    assert told(device)["contact"]["count"] == 0
    monkeypatch.undo()
    assert problem(ask(device)) == (409, "not_current")


@pytest.mark.protocol("D2")
def test_digest_refuses_tokens_and_devices_as_pull_does() -> None:
    device = TestDevice()
    device.pull()
    assert problem(ask(device, "nonsense")) == (400, "invalid_token")
    sql("UPDATE sync_epoch SET id = gen_random_uuid()")
    assert problem(ask(device)) == (410, "token_expired")
    assert problem(Client().get("/sync/digest", {"token": str(device.token)})) == (401, "unauthorized")
    assert problem(Client().post("/sync/rows", {}, "application/json")) == (401, "unauthorized")
    assert problem(Client().post("/sync/digest/mismatch", {}, "application/json")) == (401, "unauthorized")
    revoke(device.device, wipe=True)
    assert problem(ask(device)) == (401, "device_revoked")


# --- D3: narrowing down ---


@pytest.mark.protocol("D3")
def test_digest_narrows_down_to_the_buckets_and_rows_of_an_entity() -> None:
    ids = [contact() for _ in range(300)]
    device = TestDevice()
    device.pull()
    buckets = told(device, entity="contact")
    assert len(buckets["buckets"]) == 256
    assert buckets["buckets"][0] == model({i: 1 for i in ids if bucket_of(i) == "00"})["digest"]
    some = bucket_of(ids[0])
    assert told(device, entity="contact", bucket=some) == {
        "entity": "contact",
        "bucket": some,
        "rows": {i: 1 for i in sorted(ids) if bucket_of(i) == some},
        "has_more": False,
    }


@pytest.mark.protocol("D3")
def test_bucket_of_more_than_a_page_comes_in_pages(settings: Settings) -> None:
    some = bucket_of(contact())
    sql(
        "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
        " SELECT id, '', '', '', '', '', '' FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 2000)) g"
        " WHERE get_byte(sha256(id::text::bytea), 0) = %s",
        [int(some, 16)],
    )
    device = TestDevice()
    device.pull()
    whole = told(device, entity="contact", bucket=some)["rows"]
    settings.SYNC_PULL_ROWS_MAX = 2
    seen: Held = {}
    after: dict[str, str] = {}
    while True:
        page = told(device, entity="contact", bucket=some, **after)
        seen |= page["rows"]
        if not page["has_more"]:
            break
        assert len(page["rows"]) == 2
        after = {"after": list(page["rows"])[-1]}
    assert list(seen.items()) == list(whole.items())


@pytest.mark.protocol("D3")
def test_digest_of_many_rows_reads_them_in_batches(monkeypatch: Any) -> None:
    monkeypatch.setattr(digest, "FETCHED_ROWS", 1_000)
    sql(
        "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
        " SELECT gen_random_uuid(), '', '', '', '', '', '' FROM generate_series(1, 10000)"
    )
    device = TestDevice()
    device.pull()
    expected = model(held(device, "contact"))
    fetched: list[int] = []
    real = digest._lines

    def counted(*arguments: Any) -> Any:
        for batch in real(*arguments):
            fetched.append(len(batch))
            yield batch

    monkeypatch.setattr(digest, "_lines", counted)
    assert told(device)["contact"] == expected
    assert fetched == [1_000] * 10


HOSTILE = [
    {"entity": "nothing"},
    {"entity": "sync_feed"},
    {"entity": ""},
    {"entity": "contact'; DROP TABLE sync_feed; --"},
    {"entity": "contact\0"},
    {"entity": "contact", "bucket": "A7"},
    {"entity": "contact", "bucket": "256"},
    {"entity": "contact", "bucket": "-1"},
    {"entity": "contact", "bucket": ""},
    {"entity": "contact", "bucket": "a7\n"},
    {"entity": "contact", "bucket": "00", "after": "x"},
    {"entity": "contact", "after": ROW},
    {"bucket": "00"},
]


@pytest.mark.protocol("D3")
@pytest.mark.parametrize("query", HOSTILE, ids=str)
def test_digest_of_what_there_is_not_returns_400(query: dict[str, str]) -> None:
    device = TestDevice()
    device.pull()
    assert problem(ask(device, **query)) == (400, "invalid_request")
    device.token = None
    assert problem(ask(device)) == (400, "invalid_request")


# --- D4: rows ---


@pytest.mark.protocol("D4")
def test_rows_are_answered_like_a_pull() -> None:
    mine = employee(1)
    made, named = order(mine), contact("Zoë")
    gone = contact()
    Contact.objects.filter(pk=gone).delete()
    device = TestDevice("global", f"employee:{mine}")
    device.pull()
    answer = rows(device, {"contact": [named, gone, named], "order": [str(made.pk)], "product": []})
    assert answer == {
        "changes": {
            "contact": {"upserts": [device.of("contact")[named]], "deletes": [gone]},
            "order": {"upserts": [device.of("order")[str(made.pk)]], "deletes": []},
        },
        "has_more": False,
    }


@pytest.mark.protocol("D4")
def test_rows_outside_the_scopes_are_answered_like_those_that_do_not_exist() -> None:
    hidden, never = str(order(employee(1)).pk), str(uuid.uuid4())
    device = TestDevice("global")
    assert rows(device, {"order": [hidden]})["changes"] == {"order": {"upserts": [], "deletes": [hidden]}}
    assert rows(device, {"order": [never]})["changes"] == {"order": {"upserts": [], "deletes": [never]}}
    product = Product.objects.create(code="X", name="X", unit_cost="1.2345")
    (row,) = rows(device, {"product": [str(product.pk)]})["changes"]["product"]["upserts"]
    assert "unit_cost" not in row


@pytest.mark.protocol("D4")
def test_rows_of_a_lost_scope_are_gone_at_once() -> None:
    mine = employee(1)
    made = str(order(mine).pk)
    device = TestDevice("global", f"employee:{mine}")
    device.pull()
    device.revoke(f"employee:{mine}")
    assert rows(device, {"order": [made]})["changes"]["order"]["deletes"] == [made]
    Order.objects.all().delete()


@pytest.mark.protocol("D4")
def test_rows_that_do_not_fit_are_to_be_asked_for_again(settings: Settings) -> None:
    settings.SYNC_PULL_PAGE_BYTES_MAX = 600
    wanted = {contact() for _ in range(5)}
    device, seen, calls = TestDevice(), set[str](), 0
    while wanted - seen:
        answer = rows(device, {"contact": sorted(wanted - seen)})
        came = {row["id"] for row in answer["changes"]["contact"]["upserts"]}
        assert came
        seen |= came
        calls += 1
        assert answer["has_more"] == (seen != wanted)
    assert calls > 1


@pytest.mark.protocol("D4")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{", (400, "invalid_json")),
        ("[]", (400, "invalid_request")),
        ({"contact": "x"}, (400, "invalid_request")),
        ({"contact": ["x"]}, (400, "invalid_request")),
        ({"contact": [1]}, (400, "invalid_request")),
        ({"contact": None}, (400, "invalid_request")),
        ({"nothing": []}, (400, "invalid_request")),
        ({"contact\0": []}, (400, "invalid_request")),
        ({"contact": [str(uuid.UUID(int=n)) for n in range(1001)]}, (413, "body_too_large")),
        ({"contact": [ROW] * 1001}, (413, "body_too_large")),
        ({"contact": [ROW] * 2000}, (413, "body_too_large")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rows_refuse_what_they_cannot_read(body: Any, expected: tuple[int, str]) -> None:
    device = TestDevice()
    answer = Client().post("/sync/rows", body, "application/json", headers=device.headers)
    assert problem(answer) == expected
    assert rows(device, {}) == {"changes": {}, "has_more": False}
