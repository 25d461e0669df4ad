"""A ledger that tells of its changes by webhook: how its bodies look, and who signs them."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from standardwebhooks.webhooks import Webhook as Signer

from entities.models import Customer
from legacy import systems
from legacy.mapping import Mapping
from legacy.models import Link
from legacy.systems import System
from legacy.webhooks.hook import Hook, Where
from legacy.webhooks.verifiers import StandardWebhooks
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Ledger

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, yes").decode()
WHERE = Where({"party": "customer", "item": "product", "sale": "order"}, kind="kind", key="key", each="events")
ASYNC = Hook(StandardWebhooks(), WHERE)


def signed(body: bytes, id: str = "", secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    """The headers of Standard Webhooks."""
    at = at or datetime.now(UTC)
    id = id or f"msg_{secrets.token_hex(8)}"
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Signer(secret).sign(id, at, body.decode()),
    }


def hub(body: bytes, secret: str = "hub") -> dict[str, str]:
    """The header of GitHub."""
    return {"X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


def about(*keys: str, kind: str = "party", **more: Any) -> bytes:
    """A body that tells that these records changed."""
    return json.dumps({"events": [{"kind": kind, "key": key, **more} for key in keys]}).encode()


def send(body: bytes, headers: dict[str, str] | None = None, path: str = "/legacy/ledger/webhook") -> Any:
    return Client().post(path, body, "application/json", headers=headers or signed(body))


@contextmanager
def listening(
    ledger: Ledger, hook: Hook | None = None, mappings: tuple[Mapping, ...] = (CUSTOMER, PRODUCT, ORDER)
) -> Iterator[System]:
    """LEGACY_SYSTEMS has the ledger, with a webhook, and nothing else."""
    named = System("ledger", lambda: ledger, mappings, webhook=hook or Hook(StandardWebhooks(), WHERE, mode="sync"))
    module = ModuleType("a_deployment")
    module.SYSTEMS = (named,)  # type: ignore[attr-defined]
    systems.modules.cache_clear()
    with mock.patch.object(systems, "import_module", lambda name: module):
        yield named
    systems.modules.cache_clear()


def city(key: str) -> str:
    """Of the customer that a record of theirs is linked to."""
    return Customer.objects.get(pk=Link.objects.get(mapping="customer", key=key).row).city


def outcomes(answer: Any) -> list[str]:
    return [record["outcome"] for record in answer.json()["records"]]


def later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture
def webhook_secrets(settings: Any) -> None:
    """Two of the ledger's and one of another system; and no change is older than the test."""
    settings.LEGACY_WEBHOOK_SECRETS = [f"ledger:{SECRET}", "ledger:hub", "other:not yours"]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def system(ledger: Ledger) -> Iterator[System]:
    with listening(ledger) as named:
        yield named
