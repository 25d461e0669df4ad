"""A receiver of webhooks on loopback: a real HTTP server in a thread, which keeps what it accepted."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from legacy.secret import seal
from legacy.webhooks.feed import begin
from legacy.webhooks.outbox import new_secret
from legacy.webhooks.subscriptions import Subscription
from tests.integration.alert_support import listening


class Receiver:
    """Answers each message with what `answer` says; `rows` is what it knows, as a careful receiver keeps it."""

    def __init__(self) -> None:
        self.url = ""
        self.secret = new_secret()
        self.answer: Callable[[int], int] = lambda number: 204  # by the number of the try, from 1
        self.headers: dict[str, str] = {}
        self.before: Callable[[], None] = lambda: None  # it answers
        self.tries: list[tuple[str, dict[str, Any]]] = []  # id and body of each
        self.accepted: dict[str, dict[str, Any]] = {}  # body by id: a second one with the same id is ignored
        self.told: list[tuple[str, int]] = []  # row and revision, in the order of their first arrival
        self.rows: dict[tuple[str, str], dict[str, Any] | None] = {}
        self.lock = threading.Lock()

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """Raises WebhookVerificationError unless it is signed."""
        message = Webhook(self.secret).verify(body, headers)
        with self.lock:
            self.tries.append((headers["webhook-id"], message))
            number = len(self.tries)
        self.before()
        status = self.answer(number)
        with self.lock:
            if 200 <= status < 300 and headers["webhook-id"] not in self.accepted:
                self.accepted[headers["webhook-id"]] = message
                self._keep(message)
        return status

    def _keep(self, message: dict[str, Any]) -> None:
        if message["type"] == "sync.reset":
            self.rows.clear()
        for change in message["data"].get("changes", []):
            self.told.append((change["id"], change["rev"]))
            self.rows[change["entity"], change["id"]] = change.get("row")

    @property
    def there(self) -> dict[str, dict[str, Any]]:
        """The rows that it has, by id."""
        return {id: row for (_, id), row in self.rows.items() if row is not None}


@contextmanager
def receiver() -> Iterator[Receiver]:
    here = Receiver()
    with listening(here) as address:
        here.url = f"{address}/hook"
        yield here


def subscribe(here: Receiver, *entities: str, whole: bool = False, **more: Any) -> Subscription:
    found = Subscription(
        name="shop", url=here.url, entities=list(entities or ("customer",)), sealed=seal(here.secret), **more
    )
    begin(found, whole)
    found.save()
    return found


def size_of(message: dict[str, Any]) -> int:
    return len(json.dumps(message))


def later(**span: float) -> datetime:
    return timezone.now() + timedelta(**span)


def fresh(subscription: Subscription) -> Subscription:
    return Subscription.objects.get(pk=subscription.pk)


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture
def subscriptions_on_loopback(settings: Any) -> None:
    """Receivers may be on loopback, and no change is older than the test."""
    settings.LEGACY_SUBSCRIPTION_PRIVATE = True
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


@pytest.fixture
def shop() -> Iterator[Receiver]:
    with receiver() as here:
        yield here
