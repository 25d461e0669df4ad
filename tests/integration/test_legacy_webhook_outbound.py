"""Webhooks that go out: a subscriber has every row in the end, in order, and nobody is told what is not theirs."""

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.conf import settings as project
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from entities.models import Customer, Employee, Order, Product
from legacy.secret import seal
from legacy.webhooks import feed, outbox
from legacy.webhooks.outbox import (
    LEASE_SECONDS,
    deliver_due,
    new_secret,
    problem_of,
    renew_secret,
    resume,
    send_test,
    skip,
    start_over,
)
from legacy.webhooks.subscriptions import Subscription
from sync.outbound import PAUSES_MINUTES
from tests.integration.subscription_support import Receiver, receiver, size_of, subscribe
from tests.integration.sync_support import settled, sql

pytestmark = pytest.mark.django_db(transaction=True)
DAY = date(2026, 11, 21)


@pytest.fixture(autouse=True)
def _here(settings: Any) -> None:
    settings.LEGACY_SUBSCRIPTION_PRIVATE = True
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


@pytest.fixture
def shop() -> Iterator[Receiver]:
    with receiver() as here:
        yield here


def later(**span: float) -> datetime:
    return timezone.now() + timedelta(**span)


def fresh(subscription: Subscription) -> Subscription:
    return Subscription.objects.get(pk=subscription.pk)


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


# --- secrets ---


def test_both_secrets_sign_for_a_day_after_a_new_one(shop: Receiver, monkeypatch: Any) -> None:
    subscription = subscribe(shop)
    before = shop.secret
    after = renew_secret(subscription)
    for secret in (before, after):
        shop.secret = secret
        assert send_test(fresh(subscription)).error == ""
    monkeypatch.setattr(outbox, "timezone", SimpleNamespace(now=lambda: later(hours=25)))
    assert len(outbox._secrets(fresh(subscription))) == 1


def test_secret_survives_a_new_secret_key(shop: Receiver, settings: Any) -> None:
    subscription = subscribe(shop)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = secrets.token_urlsafe()
    assert send_test(fresh(subscription)).error == ""
    settings.SECRET_KEY_FALLBACKS = []
    assert send_test(fresh(subscription)).error == ""


def test_key_is_replaced_with_no_delivery_between(shop: Receiver, settings: Any) -> None:
    subscription = subscribe(shop)
    settings.LEGACY_SECRET_KEY = "the old key"
    shop.secret = renew_secret(subscription)  # the one before it signs too
    settings.LEGACY_SECRET_KEY, settings.LEGACY_SECRET_KEY_FALLBACKS = "the new key", ["the old key"]
    call_command("legacy_rekey", stdout=(told := StringIO()))
    assert told.getvalue() == "2 of 2 addresses and secrets are encrypted with the newest key.\n"
    settings.LEGACY_SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [], secrets.token_urlsafe()
    assert send_test(fresh(subscription)).error == ""


def test_secret_that_cannot_be_read_any_more_is_an_error_that_says_so(shop: Receiver, settings: Any) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    settings.SECRET_KEY = secrets.token_urlsafe()
    (told,) = deliver_due().values()
    assert "give it a new one" in told.error
    shop.secret = renew_secret(fresh(subscription))
    resume(subscription)
    deliver_due()
    assert len(shop.there) == 1


# --- commands and pages ---


def test_command_says_what_it_did(shop: Receiver, capsys: Any) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    call_command("legacy_webhooks")
    assert f'"{subscription.pk}": {{"pages": 1, "changes": 1' in capsys.readouterr().out


@pytest.fixture
def office() -> Client:
    User.objects.create_superuser("boss", password="boss")
    client = Client()
    client.login(username="boss", password="boss")
    return client


LIST = "/admin/legacy/subscription/"


def test_administrator_subscribes_and_sees_the_secret_once(office: Client, shop: Receiver) -> None:
    form = {"name": "shop", "url": shop.url, "entities": ["customer"], "scope_lines": "country:Norway", "enabled": "on"}
    answer = office.post(f"{LIST}add/", form, follow=True)
    (told,) = [str(message) for message in answer.context["messages"] if "Secret" in str(message)]
    shop.secret = told.split()[1].rstrip(".")
    Customer.objects.create(name="one", country="Norway")
    Customer.objects.create(name="unseen", country="Chile")
    deliver_due()
    assert (len(shop.there), Subscription.objects.get().scopes) == (1, ["country:Norway"])
    page = office.get(f"{LIST}{Subscription.objects.get().pk}/change/").content.decode()
    assert shop.secret not in page


def test_address_inside_is_refused_by_the_form(office: Client, settings: Any) -> None:
    settings.LEGACY_SUBSCRIPTION_PRIVATE = False
    form = {"name": "shop", "url": "https://10.0.0.1/", "entities": ["customer"], "enabled": "on"}
    assert b"inner network" in office.post(f"{LIST}add/", form).content
    assert not Subscription.objects.exists()


def test_pages_show_how_each_does(office: Client, shop: Receiver) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    shop.answer = lambda number: 503
    deliver_due()
    for page in (LIST, f"{LIST}{subscription.pk}/change/"):
        text = office.get(page).content.decode()
        assert "failing" in text and "answered 503" in text and "1 changes" in text


@pytest.mark.parametrize(
    ("action", "told"),
    [("send_a_test", "answered 503"), ("resume_them", "is told"), ("skip_the_page", "1 changes: customer"),
     ("send_everything", "every row"), ("give_new_secret", "Secret: whsec_")],
)  # fmt: skip
def test_actions_of_the_page(office: Client, shop: Receiver, action: str, told: str) -> None:
    subscription = subscribe(shop)
    Customer.objects.create(name="one")
    shop.answer = lambda number: 503
    deliver_due()
    answer = office.post(LIST, {"action": action, "_selected_action": [str(subscription.pk)]}, follow=True)
    assert told in answer.content.decode()


def test_nobody_subscribes_others_to_what_they_may_not_see_themselves(shop: Receiver) -> None:
    clerk = User.objects.create_user("clerk", password="clerk", is_staff=True)
    for name in ("add_subscription", "view_subscription", "view_product"):
        clerk.user_permissions.add(Permission.objects.get(codename=name))
    client = Client()
    client.login(username="clerk", password="clerk")
    form = {"name": "shop", "url": shop.url, "entities": ["customer"], "enabled": "on"}
    assert client.post(f"{LIST}add/", form).status_code == 200  # the form again, with its error
    assert not Subscription.objects.exists()
    client.post(f"{LIST}add/", form | {"entities": ["product"]})
    assert Subscription.objects.get().entities == ["product"]


def test_new_secrets_are_not_alike() -> None:
    assert new_secret() != new_secret()
    assert seal("a") != seal("a")
