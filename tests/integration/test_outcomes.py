"""What devices are told of later decisions (rules O1 to O3 of docs/protocol.md)."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test import Client

from entities.models import Contact
from sync.amend import lock_devices
from sync.models import Conflict, Outcome
from sync.outcomes import tell
from sync.prune import prune
from sync.resolve import resolve, undo
from tests.integration.conflict_support import BOSS, conflict, disputed
from tests.integration.sync_support import TestDevice, problem, sql

pytestmark = pytest.mark.django_db(transaction=True)


def ask(device: TestDevice, **query: Any) -> Any:
    return Client().get("/sync/outcomes", query, headers=device.headers)


def page(device: TestDevice, **query: Any) -> dict[str, Any]:
    answer = ask(device, **query)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def noted(device: TestDevice, *comments: str) -> None:
    """Outcomes of the device, committed."""
    found = Conflict(device=device.device.id, mutation=uuid4(), entity="contact", row_id=uuid4())
    with transaction.atomic():
        lock_devices([found.device])
        for comment in comments:
            tell([(found, "server", None)], BOSS, comment)


def comments(found: dict[str, Any]) -> list[str]:
    return [outcome["comment"] for outcome in found["outcomes"]]


@pytest.mark.protocol("O1")
def test_outcomes_tell_each_decision_and_each_undoing_in_order() -> None:
    device = TestDevice()
    row, found = disputed(device)
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS, comment="She rang")
    undo([decision.pk], author="user:anna")
    told = page(device)
    assert [(each["outcome"], each["rev"], each["by"]) for each in told["outcomes"]] == [
        ("device", 3, "boss"),
        ("open", 4, "anna"),
    ]
    first = told["outcomes"][0]
    assert (first["mutation"], first["entity"], first["row"]) == (str(found.mutation), "contact", row)
    assert (first["comment"], first["at"][-1], len(first["at"])) == ("She rang", "Z", 27)
    assert told["has_more"] is False
    assert page(device, since=told["cursor"]) == {"outcomes": [], "cursor": told["cursor"], "has_more": False}


@pytest.mark.slow
@pytest.mark.protocol("O1")
def test_outcomes_are_never_missed_whatever_commits_when() -> None:
    device = TestDevice()
    found = Conflict(device=device.device.id, mutation=uuid4(), entity="contact", row_id=uuid4())
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            lock_devices([found.device])
            tell([(found, "server", None)], BOSS, "slow")
            begun.set()
            go.wait(10)
        connection.close()

    def fast() -> None:
        noted(device, "fast")
        connection.close()

    threads = [threading.Thread(target=slow), threading.Thread(target=fast)]
    threads[0].start()
    begun.wait(10)
    threads[1].start()
    threads[1].join(0.3)
    cursor = page(device)["cursor"]  # neither has committed: a number that was read is below no later one
    go.set()
    for thread in threads:
        thread.join()
    assert comments(page(device, since=cursor)) == ["slow", "fast"]


@pytest.mark.protocol("O1")
def test_outcomes_of_many_pages_are_all_told_once() -> None:
    device = TestDevice()
    noted(device, *"abcde")
    told, cursor, more = [], None, True
    while more:
        found = page(device, limit=2, **({"since": cursor} if cursor else {}))
        told += comments(found)
        cursor, more = found["cursor"], found["has_more"]
    assert told == list("abcde")


@pytest.mark.protocol("O2")
def test_outcomes_with_the_same_cursor_are_the_same_and_later_ones() -> None:
    device = TestDevice()
    noted(device, "a")
    cursor = page(device)["cursor"]
    noted(device, "b")
    assert comments(page(device, since=cursor)) == ["b"]
    noted(device, "c")
    assert comments(page(device, since=cursor)) == ["b", "c"]
    assert comments(page(device)) == ["a", "b", "c"]


@pytest.mark.protocol("O2")
def test_outcomes_after_a_restore_begin_anew() -> None:
    device = TestDevice()
    noted(device, "a", "b")
    cursor = page(device)["cursor"]
    sql("DELETE FROM sync_outcome WHERE comment = 'b'")
    sql("SELECT setval('sync_outcome_number_seq', (SELECT max(number) FROM sync_outcome))")
    sql("UPDATE sync_epoch SET database_identity = 'another'")
    noted(device, "c")
    told = page(device, since=cursor)
    assert comments(told) == ["a", "c"]
    assert comments(page(device, since=told["cursor"])) == []


@pytest.mark.protocol("O2")
def test_outcomes_cursor_that_is_none_and_limit_out_of_range_return_400() -> None:
    device = TestDevice()
    cursor = page(device)["cursor"]
    for query in (
        {"since": "x"},
        {"since": ""},
        {"since": cursor + "a"},
        {"since": "\x00"},
        {"limit": 0},
        {"limit": 1001},
    ):
        assert problem(ask(device, **query)) == (400, "invalid_request"), query


@pytest.mark.protocol("O3")
def test_outcomes_are_told_to_the_devices_own_only() -> None:
    device, other = TestDevice(), TestDevice()
    noted(device, "mine")
    noted(other, "another's")
    cursor = page(other)["cursor"]
    assert comments(page(device)) == ["mine"]
    assert comments(page(device, since=cursor)) == []
    assert problem(Client().get("/sync/outcomes")) == (401, "unauthorized")


@pytest.mark.protocol("O3")
def test_outcomes_tell_no_revision_of_a_row_that_left_the_devices_scopes() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    found = conflict(device, row, {"first_name": "Ina"}, {"first_name": "Ana"})
    resolve(found.pk, {}, rev=1, author=BOSS)
    assert page(device)["outcomes"][0]["rev"] == 1
    device.revoke("global")
    assert page(device)["outcomes"][0]["rev"] is None


def test_prune_forgets_old_outcomes() -> None:
    device = TestDevice()
    noted(device, "old", "new")
    Outcome.objects.filter(comment="old").update(at="2020-01-01T00:00:00Z")
    assert prune()["outcomes"] == 1
    assert comments(page(device)) == ["new"]
