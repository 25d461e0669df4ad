"""What must not happen to webhooks that go out: that they lose, that they leak, that they tear."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from datetime import date
from typing import Any

import psycopg
import pytest
from django.conf import settings as project
from django.db import connection

from entities.models import Customer, Employee, Order, Product
from legacy.webhooks.outbox import LEASE_SECONDS, deliver_due, problem_of, send_test
from legacy.webhooks.subscriptions import Subscription
from tests.integration.subscription_support import Receiver, fresh, later, receiver, subscribe
from tests.integration.sync_support import settled, sql

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("subscriptions_on_loopback")]
DAY = date(2026, 11, 21)


# --- It could lose: something is committed behind the position, or a repeated id hides what is new ---


def test_change_that_is_committed_late_is_told(shop: Receiver) -> None:
    subscribe(shop)
    address = {name: connection.get_connection_params()[name] for name in ("host", "port", "user", "password", "dbname")
               if connection.get_connection_params().get(name) is not None}  # fmt: skip
    with psycopg.connect(**address) as slow:
        slow.execute("INSERT INTO entities_customer (id, name, address, city, region, postal_code, country, phone, fax)"
                     " VALUES (gen_random_uuid(), 'slow', '', '', '', '', '', '', '')")  # fmt: skip
        Customer.objects.create(name="quick")
        deliver_due()
        assert [row["name"] for row in shop.there.values()] == ["quick"]
    deliver_due()
    assert {row["name"] for row in shop.there.values()} == {"quick", "slow"}


def test_page_that_is_sent_again_holds_nothing_that_it_did_not_hold_before(shop: Receiver) -> None:
    """A receiver that knows its id ignores it, so what is new must come under another id."""
    subscribe(shop)
    one, two = (Customer.objects.create(name=name) for name in ("one", "two"))
    lost = iter([500])
    shop.answer = lambda number: next(lost, 204)
    deliver_due()
    Customer.objects.filter(pk=one.pk).update(name="one, changed")
    Customer.objects.create(name="three")
    deliver_due(later(minutes=6))
    (first, before), (again, after), *_ = shop.tries
    assert first == again
    assert [change["id"] for change in before["data"]["changes"]] == [str(one.pk), str(two.pk)]
    assert [change["id"] for change in after["data"]["changes"]] == [str(two.pk)]
    assert {row["name"] for row in shop.there.values()} == {"one, changed", "two", "three"}


def test_receiver_whose_answer_was_lost_has_everything_in_the_end(shop: Receiver) -> None:
    """It keeps what it was sent, and ignores an id that it knows."""
    subscribe(shop)
    row = Customer.objects.create(name="one")
    shop.answer = lambda number: 204
    keep, shop.take = shop.take, lambda body, headers: keep(body, headers) and 503  # type: ignore[method-assign]
    deliver_due()
    Customer.objects.filter(pk=row.pk).update(name="two")
    shop.take = keep  # type: ignore[method-assign]
    deliver_due(later(minutes=6))
    assert [each["name"] for each in shop.there.values()] == ["two"]


def test_subscriber_whose_position_is_forgotten_is_told_to_begin_anew(shop: Receiver) -> None:
    subscription = subscribe(shop)
    gone = Customer.objects.create(name="gone")
    deliver_due()
    gone.delete()
    Customer.objects.create(name="here")
    sql("UPDATE sync_epoch SET forgotten_before = %s::xid8", [settled()])
    deliver_due()
    assert "sync.reset" in [message["type"] for message in shop.accepted.values()]
    assert [row["name"] for row in shop.there.values()] == ["here"]
    assert fresh(subscription).loads == 1
    with connection.cursor() as cursor:
        cursor.execute("UPDATE sync_epoch SET forgotten_before = '0'")


def test_database_that_was_restored_is_told_anew(shop: Receiver) -> None:
    subscribe(shop)
    Customer.objects.create(name="one")
    deliver_due()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE sync_epoch SET database_identity = 'another'")
    deliver_due()
    assert [message["type"] for message in shop.accepted.values()] == ["sync.changes", "sync.reset", "sync.changes"]


# --- It could leak: rows of others, hidden fields, or a look inside our network ---


def test_subscriber_gets_its_scopes_and_entities_and_no_hidden_field(shop: Receiver) -> None:
    ann, bob = (Employee.objects.create(number=n, first_name="A", last_name="B") for n in (1, 2))
    subscribe(shop, "order", "product", scopes=[f"employee:{ann.pk}", "global"])
    customer = Customer.objects.create(name="unseen")
    hers, his = (
        Order.objects.create(customer=customer, employee=each, number=str(each.number), ordered_on=DAY)
        for each in (ann, bob)
    )
    Product.objects.create(code="1", name="Tea", unit_cost=3)
    deliver_due()
    assert {entity for entity, _ in shop.rows} == {"order", "product"}
    assert str(hers.pk) in shop.there and str(his.pk) not in shop.there
    assert not any("unit_cost" in row for row in shop.there.values())
    Order.objects.filter(pk=hers.pk).update(employee=bob)
    Order.objects.filter(pk=his.pk).update(employee=ann)
    deliver_due()
    assert str(his.pk) in shop.there and str(hers.pk) not in shop.there


def test_row_that_moves_between_two_scopes_of_a_subscriber_is_not_deleted_there(shop: Receiver) -> None:
    ann, bob = (Employee.objects.create(number=n, first_name="A", last_name="B") for n in (1, 2))
    customer = Customer.objects.create(name="a customer")
    for scopes in ([], [f"employee:{ann.pk}", f"employee:{bob.pk}"]):
        subscription = subscribe(shop, "order", scopes=scopes)
        order = Order.objects.create(customer=customer, employee=ann, ordered_on=DAY)
        deliver_due()
        Order.objects.filter(pk=order.pk).update(employee=bob)
        deliver_due()
        assert shop.there[str(order.pk)]["employee_id"] == str(bob.pk)
        Subscription.objects.filter(pk=subscription.pk).delete()


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://example.org/hook", True),
        ("http://example.org/hook", False),
        ("ftp://example.org/hook", False),
        ("https://user:password@example.org/", False),
        ("https://", False),
        ("https://127.0.0.1/", False),
        ("https://localhost/", False),
        ("https://[::1]/", False),
        ("https://10.0.0.1/", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https://[::ffff:127.0.0.1]/", False),
    ],
)
def test_address_must_be_public(settings: Any, url: str, fine: bool) -> None:
    settings.LEGACY_SUBSCRIPTION_PRIVATE = False
    assert (problem_of(url) == "") == fine


def test_name_that_stands_for_an_inner_address_is_not_called(shop: Receiver, settings: Any, monkeypatch: Any) -> None:
    settings.LEGACY_SUBSCRIPTION_PRIVATE = False
    subscription = subscribe(shop)
    subscription.url = "https://inside.example.org/hook"
    inside = [(0, 0, 0, "", ("127.0.0.1", 443))]
    monkeypatch.setattr("sync.outbound.socket.getaddrinfo", lambda *_, **__: inside)
    assert "not a public address" in send_test(subscription).error
    assert not shop.tries


def test_redirect_is_not_followed(shop: Receiver) -> None:
    with receiver() as other:
        shop.answer = lambda number: 307
        shop.headers = {"Location": other.url}
        subscribe(shop)
        Customer.objects.create(name="one")
        (told,) = deliver_due().values()
        assert (told.error, other.tries) == ("answered 307", [])


def test_secret_is_not_in_the_database_in_clear(shop: Receiver) -> None:
    assert shop.secret.removeprefix("whsec_") not in fresh(subscribe(shop)).sealed


# --- It could tear: two processes deliver to one subscriber, or one dies between sending and noting it ---


DELIVERER = textwrap.dedent("""
    import django, os
    django.setup()
    from django.conf import settings
    settings.DATABASES["default"]["NAME"] = os.environ["NAME"]
    settings.LEGACY_SUBSCRIPTION_PRIVATE = True
    from legacy.webhooks import feed
    feed.PAGE_ROWS = 7
    from legacy.webhooks.outbox import deliver_due
    print("ready", flush=True)
    input()
    for _ in range(int(os.environ["TIMES"])):
        deliver_due()
""")


def deliverer(times: int) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "syncserver.settings",
        "NAME": connection.settings_dict["NAME"],
        "TIMES": str(times),
        "SECRET_KEY": project.SECRET_KEY,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", DELIVERER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def begin_delivering(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.close()


def end(process: "subprocess.Popen[str]") -> None:
    assert process.stdout
    process.stdout.close()
    process.wait(60)


@pytest.mark.slow
def test_two_processes_tell_each_row_in_order(shop: Receiver) -> None:
    subscribe(shop)
    rows = [Customer.objects.create(name="0").pk for _ in range(10)]
    processes = [deliverer(times=150) for _ in range(2)]
    for process in processes:
        begin_delivering(process)
    for number in range(1, 41):
        for pk in rows:
            Customer.objects.filter(pk=pk).update(name=str(number))
    for process in processes:
        end(process)
    assert [process.returncode for process in processes] == [0, 0]
    deliver_due()
    revisions = defaultdict(list)
    for row, revision in shop.told:
        revisions[row].append(revision)
    assert all(found == sorted(set(found)) for found in revisions.values())
    assert {row["name"] for row in shop.there.values()} == {"40"}
    assert len(shop.told) > 20  # it was told while they were changed, and not only at the end


@pytest.mark.slow
def test_process_that_is_killed_while_sending_leaves_the_page_to_another(shop: Receiver) -> None:
    subscribe(shop)
    Customer.objects.create(name="one")
    arrived, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        arrived.set()
        go_on.wait(30)

    shop.before = hold
    process = deliverer(times=1)
    begin_delivering(process)
    assert arrived.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    go_on.set()
    assert deliver_due() == {}  # it is leased
    deliver_due(later(seconds=LEASE_SECONDS + 1))
    assert len({id for id, _ in shop.tries}) == 1
    assert len(shop.accepted) == 1
    assert [row["name"] for row in shop.there.values()] == ["one"]


def test_process_that_was_thought_dead_does_not_move_the_position(shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")

    def taken_over() -> None:
        Subscription.objects.update(claim=None)
        connection.close()

    shop.before = taken_over
    deliver_due()
    assert fresh(subscription).to_xid is not None
    assert fresh(subscription).delivered == 0


def test_slow_subscriber_is_passed_over_by_other_processes(shop: Receiver) -> None:
    """While one process waits for it, another delivers to the rest."""
    with receiver() as quick:
        subscribe(shop)
        Customer.objects.create(name="one")
        arrived, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            arrived.set()
            go_on.wait(30)

        def deliver() -> None:
            deliver_due()
            connection.close()

        shop.before = hold
        thread = threading.Thread(target=deliver)
        thread.start()
        assert arrived.wait(30)
        subscribe(quick, whole=True)
        deliver_due()
        assert [row["name"] for row in quick.there.values()] == ["one"]
        go_on.set()
        thread.join()
        assert [row["name"] for row in shop.there.values()] == ["one"]
