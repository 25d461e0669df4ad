"""Webhooks that go out: what a subscriber is told, and what becomes of it where the receiver fails."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from entities.models import Customer, Product
from legacy.webhooks import feed, outbox
from legacy.webhooks.outbox import deliver_due, resume, skip, start_over
from legacy.webhooks.subscriptions import Subscription
from sync.outbound import PAUSES_MINUTES
from tests.integration.subscription_support import Receiver, fresh, later, receiver, size_of, subscribe

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("subscriptions_on_loopback")]


# --- what is told ---


def test_subscriber_is_told_of_changes_from_now_on(shop: Receiver) -> None:
    Customer.objects.create(name="before")
    subscription = subscribe(shop)
    row = Customer.objects.create(name="one")
    Customer.objects.filter(pk=row.pk).update(name="two")
    (told,) = deliver_due().values()
    ((_, message),) = shop.tries
    assert (told.pages, told.changes, told.error) == (1, 1, "")
    assert (message["type"], message["data"]["subscription"]) == ("sync.changes", str(subscription.pk))
    (change,) = message["data"]["changes"]
    assert {name: change[name] for name in ("entity", "id", "rev", "op")} == {
        "entity": "customer", "id": str(row.pk), "rev": 2, "op": "upsert"}  # fmt: skip
    assert (change["row"]["name"], change["row"]["_rev"]) == ("two", 2)
    Customer.objects.filter(pk=row.pk).delete()
    deliver_due()
    assert shop.tries[-1][1]["data"]["changes"] == [{"entity": "customer", "id": str(row.pk), "rev": 3, "op": "delete"}]


def test_subscriber_may_be_told_everything_first(shop: Receiver) -> None:
    Customer.objects.create(name="before")
    Customer.objects.create(name="gone").delete()
    subscribe(shop, whole=True)
    deliver_due()
    assert [row["name"] for row in shop.there.values()] == ["before"]
    assert len(shop.rows) == 1


def test_nothing_is_sent_where_nothing_is_new(shop: Receiver) -> None:
    subscribe(shop)
    Customer.objects.create(name="one")
    deliver_due()
    Product.objects.create(code="1", name="of another entity")
    deliver_due()
    assert len(shop.tries) == 1


def test_transaction_that_is_rolled_back_is_not_told(shop: Receiver) -> None:
    subscribe(shop)
    with transaction.atomic():
        Customer.objects.create(name="never")
        transaction.set_rollback(True)
    deliver_due()
    assert shop.tries == []


@pytest.mark.slow
def test_subscriber_that_was_away_catches_up_with_5000_changes(shop: Receiver) -> None:
    subscription = subscribe(shop)
    rows = Customer.objects.bulk_create(Customer(name=f"customer {n}") for n in range(4_000))
    Customer.objects.filter(pk__in=[row.pk for row in rows[:500]]).delete()
    Customer.objects.filter(pk__in=[row.pk for row in rows[500:1_000]]).update(name="changed")
    Customer.objects.bulk_create(Customer(name=f"late {n}") for n in range(1_000))
    assert feed.waiting(fresh(subscription)) == feed.WAITING_SHOWN_MAX + 1
    (told,) = deliver_due().values()
    assert (told.pages, told.changes) == (10, 5_000)
    assert {id: row["name"] for id, row in shop.there.items()} == {
        str(pk): name for pk, name in Customer.objects.values_list("pk", "name")
    }
    assert feed.waiting(fresh(subscription)) == 0
    assert fresh(subscription).delivered == 5_000


def test_page_is_bounded_in_bytes(shop: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setattr(feed, "PAGE_BYTES", 5_000)
    subscribe(shop)
    Customer.objects.bulk_create(Customer(name="x" * 120, address="y" * 120) for _ in range(40))
    deliver_due()
    assert len(shop.there) == 40
    assert all(size_of(message) < 8_000 for _, message in shop.tries)


def test_rows_of_many_changes_are_told_once_in_their_newest_state(shop: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setattr(feed, "PAGE_ROWS", 3)
    subscribe(shop)
    rows = [Customer.objects.create(name="0") for _ in range(10)]
    for number in range(1, 6):
        Customer.objects.filter(pk__in=[row.pk for row in rows]).update(name=str(number))
    deliver_due()
    assert (len(shop.told), {row["name"] for row in shop.there.values()}) == (10, {"5"})


# --- receivers that fail ---


@pytest.mark.slow
def test_receiver_that_is_down_is_tried_for_three_days_then_stopped_and_resumed(shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    shop.answer = lambda number: 503
    began = now = timezone.now()
    for _ in range(20):
        deliver_due(now)
        here = fresh(subscription)
        if here.stopped_at:
            break
        assert here.state == Subscription.State.FAILING
        assert deliver_due(here.next_at - timedelta(seconds=1)) == {}
        now = here.next_at
    assert (len(shop.tries), here.state) == (len(PAUSES_MINUTES) + 1, Subscription.State.STOPPED)
    assert timedelta(days=2.5) < now - began < timedelta(days=3.5)
    assert len({id for id, _ in shop.tries}) == 1
    Customer.objects.create(name="two")
    assert deliver_due(now + timedelta(days=30)) == {}
    shop.answer = lambda number: 204
    resume(subscription)
    deliver_due()
    assert {row["name"] for row in shop.there.values()} == {"one", "two"}
    assert fresh(subscription).state == Subscription.State.WELL


def test_receiver_that_answers_410_is_told_nothing_any_more(shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    shop.answer = lambda number: 410
    deliver_due()
    assert (fresh(subscription).state, fresh(subscription).enabled) == (Subscription.State.DISABLED, False)
    assert deliver_due(later(days=1)) == {}


def test_receiver_says_how_long_to_wait(shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    shop.answer, shop.headers = (lambda number: 429), {"Retry-After": "7200"}
    deliver_due()
    assert timedelta(minutes=119) < fresh(subscription).next_at - timezone.now() < timedelta(minutes=121)


def test_receiver_that_is_too_slow_is_tried_again(shop: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setattr(outbox, "TIMEOUT_SECONDS", 0.2)
    go_on = threading.Event()

    def hold() -> None:
        go_on.wait(30)

    shop.before = hold
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    (told,) = deliver_due().values()
    assert (told.error, fresh(subscription).attempts) == ("ReadTimeout", 1)
    go_on.set()


def test_receiver_that_is_gone_holds_no_other_up(shop: Receiver) -> None:
    with receiver() as other:
        gone = subscribe(shop)
        Subscription.objects.filter(pk=gone.pk).update(url="http://127.0.0.1:1/")
        subscribe(other)
        Customer.objects.create(name="one")
        told = deliver_due()
        assert told[str(gone.pk)].error == "ConnectError"
        assert len(other.there) == 1


def test_page_that_a_receiver_never_accepts_can_be_skipped(shop: Receiver) -> None:
    subscription = subscribe(shop)
    bad = Customer.objects.create(name="bad")
    shop.answer = lambda number: 422
    deliver_due()
    Customer.objects.create(name="good")
    assert [change.id for change in skip(fresh(subscription))] == [str(bad.pk)]
    shop.answer = lambda number: 204
    deliver_due()
    assert [row["name"] for row in shop.there.values()] == ["good"]


def test_subscriber_can_be_sent_everything_again(shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    deliver_due()
    start_over(fresh(subscription))
    deliver_due()
    assert [message["type"] for message in shop.accepted.values()] == ["sync.changes", "sync.reset", "sync.changes"]
    assert len(shop.there) == 1
