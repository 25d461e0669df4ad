"""Pushes that are not waited for (rule U11 of docs/protocol.md)."""

import datetime as dt
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from entities.models import Contact, Order, Product
from legacy import worker
from sync import operations
from sync.models import Operation, Rejection
from sync.prune import prune
from sync.push import push
from sync.states import Pusher
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    create,
    employee,
    history,
    new_id,
    order,
    problem,
    sql,
    update,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("a_worker")]


@pytest.fixture
def a_worker() -> Iterator[None]:
    """One that shows signs of life, and does nothing until `work`."""
    sql("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())")
    yield
    sql("DELETE FROM procrastinate_jobs")
    sql("DELETE FROM procrastinate_workers")


def asked() -> list[str]:
    """The devices that jobs are there for."""
    jobs = "SELECT args ->> 'device' FROM procrastinate_jobs WHERE task_name = %s ORDER BY id"
    return [device for (device,) in sql(jobs, [operations.JOB])]


def work() -> None:
    for device in asked():
        worker.push(device)


def later(device: TestDevice, *mutations: dict[str, Any], **more: Any) -> str:
    """Where to ask for what became of a push that was not waited for."""
    answer = device.send({"mutations": list(mutations), **more}, prefer="respond-async")
    assert answer.status_code == 202, answer.content
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Location"] == f"/sync/operations/{answer.json()['operation']}"
    return str(answer.headers["Location"])


def told(device: TestDevice, place: str) -> dict[str, Any]:
    answer = Client().get(place, headers=device.headers)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.protocol("U11")
def test_push_that_is_not_waited_for_is_stored_and_then_applied() -> None:
    device, made, bad = TestDevice(), create(first_name="Ana"), create(first_name="x" * 61)
    place = later(device, made, bad)
    assert told(device, place) == {"state": "queued"}
    assert not Contact.objects.exists()
    assert asked() == [device.id]
    work()
    done = told(device, place)
    assert done["state"] == "done"
    assert [result["status"] for result in done["results"]] == ["applied", "rejected"]
    assert done["results"][0] == {"id": made["id"], "status": "applied", "rev": 1}
    assert Contact.objects.get().first_name == "Ana"
    assert Rejection.objects.get().mutation == UUID(bad["id"])
    assert {author for _, _, author, *_ in history(made["row"])} == {f"device:{device.id}"}
    assert bytes(Operation.objects.get().body) == b""


@pytest.mark.protocol("U11")
def test_pushes_are_applied_in_the_order_in_which_they_came_waited_for_or_not() -> None:
    device, made = TestDevice(), create(first_name="1")
    first = later(device, made)
    second = later(device, update(made["row"], None, first_name="2"))
    (third,) = device.push(update(made["row"], None, first_name="3"))
    assert (third["status"], third["rev"]) == ("applied", 3)
    assert [told(device, place)["results"][0]["rev"] for place in (first, second)] == [1, 2]
    assert Contact.objects.get().first_name == "3"
    work()  # there is nothing left to do
    assert Contact.objects.get().first_name == "3"


@pytest.mark.protocol("U11")
@pytest.mark.parametrize("at", ["before it was applied", "after it was applied"])
def test_push_whose_worker_was_killed_is_applied_once(at: str) -> None:
    product = Product.objects.create(code="A", name="A", units_in_stock=10)
    device = TestDevice()
    place = later(device, {**update(str(product.pk), 1, "product"), "set": {}, "add": {"units_in_stock": -2}}, create())
    operation = Operation.objects.get()
    Operation.objects.update(state="running")
    if at == "after it was applied":
        push(Pusher(operation.device, ["global"], operation.number), bytes(operation.body))
    assert told(device, place) == {"state": "running"}
    sql("DELETE FROM procrastinate_jobs")
    operations.ask_for_all()
    work()
    assert told(device, place)["state"] == "done"
    product.refresh_from_db()
    assert (product.units_in_stock, Contact.objects.count()) == (8, 1)


@pytest.mark.slow
@pytest.mark.protocol("U11")
def test_push_that_is_refused_later_says_why_and_holds_nothing_up() -> None:
    device, made, group = TestDevice(), create(), new_id()
    row = made["row"]
    enclosing = [{**made, "group": group}, update(row, None, note="1"), {**update(row, None, note="2"), "group": group}]
    refused, good = later(device, *enclosing), later(device, create())
    work()
    failed = told(device, refused)
    assert (failed["state"], failed["problem"]["code"]) == ("failed", "invalid_request")
    assert "results" not in failed
    assert told(device, good)["state"] == "done"
    assert Contact.objects.count() == 1


@pytest.mark.protocol("U11")
def test_push_is_applied_at_once_where_nobody_would_apply_it_later(settings: Settings) -> None:
    device = TestDevice()
    settings.SYNC_OPERATIONS_QUEUED_MAX = 1
    first = later(device, create())
    answer = device.send({"mutations": [create()]}, prefer="respond-async")  # as many wait as may
    assert (answer.status_code, Contact.objects.count()) == (200, 2)
    assert told(device, first)["state"] == "done"
    sql("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
    answer = device.send({"mutations": [create()]}, prefer="respond-async")
    assert (answer.status_code, Contact.objects.count()) == (200, 3)


@pytest.mark.protocol("U11")
def test_operation_is_told_to_its_own_device_only_and_without_rows_of_a_lost_scope() -> None:
    who = employee(1)
    row = str(order(who).pk)
    device = TestDevice(*SHARED, f"employee:{who}")
    place = later(device, update(row, 7, "order", note="mine"))
    work()
    assert told(device, place)["results"][0]["row"]["id"] == row
    device.revoke(f"employee:{who}")
    (result,) = told(device, place)["results"]
    assert (result["status"], result["row"]) == ("conflict", None)
    assert problem(Client().get(place, headers=TestDevice().headers)) == (404, "not_found")
    assert problem(Client().get(f"/sync/operations/{uuid4()}", headers=device.headers)) == (404, "not_found")
    assert problem(Client().get(place)) == (401, "unauthorized")


@pytest.mark.protocol("U11")
def test_made_at_is_corrected_by_when_the_push_came() -> None:
    who = employee(1)
    row = str(order(who).pk)
    device = TestDevice(*SHARED, f"employee:{who}")
    now = timezone.now()
    made = {**update(row, 1, "order", note="device"), "made_at": now.isoformat()}
    place = later(device, made, sent_at=now.isoformat())
    # It came before the office changed the row, and waits until long after that.
    Operation.objects.update(received_at=now - dt.timedelta(hours=2))
    Order.objects.update(note="office")
    sql("UPDATE sync_history SET at = at - interval '1 hour'")
    work()
    assert told(device, place)["results"][0]["status"] == "conflict"
    assert Order.objects.get().note == "office"


@pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async; wait=5", "handling=lenient, respond-async"])
def test_preference_is_read_as_http_says(prefer: str) -> None:
    assert TestDevice().send({"mutations": [create()]}, prefer=prefer).status_code == 202


@pytest.mark.parametrize("prefer", ["", "wait=10", "respond-asynchronously", 'x="respond-async'])
def test_other_preferences_are_passed_over(prefer: str) -> None:
    assert TestDevice().send({"mutations": [create()]}, prefer=prefer).status_code == 200


def test_body_that_cannot_be_read_is_refused_at_once() -> None:
    device = TestDevice()
    for body, code in (("{", "invalid_json"), ({"mutations": [], "x": 1}, "unknown_field")):
        assert problem(device.send(body, prefer="respond-async"))[1] == code
    assert not Operation.objects.exists()


def test_push_that_fails_by_our_fault_is_tried_again_and_then_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = TestDevice()
    place, after = later(device, create()), later(device, create())
    broken = Operation.objects.first()

    def push_or_fail(pusher: Pusher, *arguments: Any) -> bytes:
        if broken and pusher.operation == broken.number:
            raise ZeroDivisionError
        return push(pusher, *arguments)

    monkeypatch.setattr(operations, "push", push_or_fail)
    for _ in range(operations.TRIES_MAX - 1):
        with pytest.raises(ZeroDivisionError):
            work()
        assert told(device, place) == {"state": "running"}
    work()
    assert told(device, place)["problem"]["code"] == "internal_error"
    assert told(device, after)["state"] == "done"


def test_push_of_a_device_that_was_revoked_since_is_applied() -> None:
    device = TestDevice()
    later(device, create())
    device.device.revoked_at = timezone.now()
    device.device.save()
    work()
    assert Contact.objects.count() == 1


def test_operations_are_forgotten_when_their_answers_are() -> None:
    device = TestDevice()
    old, young = later(device, create()), later(device, create())
    work()
    waits = later(device, create())
    day = dt.timedelta(days=1)
    Operation.objects.filter(id=old.rsplit("/", 1)[1]).update(ended_at=timezone.now() - 31 * day)
    Operation.objects.filter(id=waits.rsplit("/", 1)[1]).update(received_at=timezone.now() - 31 * day)
    assert prune()["operations"] == 1
    assert problem(Client().get(old, headers=device.headers)) == (404, "not_found")
    assert [told(device, place)["state"] for place in (young, waits)] == ["done", "queued"]
