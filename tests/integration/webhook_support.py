"""A ledger that tells of its changes by webhook: how its bodies look, and who signs them."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from unittest import mock

from django.test import Client
from standardwebhooks.webhooks import Webhook as Signer

from legacy import systems
from legacy.mapping import Mapping
from legacy.systems import System
from legacy.webhooks.hook import Hook, Where
from legacy.webhooks.verifiers import StandardWebhooks
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Ledger

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, yes").decode()
WHERE = Where({"party": "customer", "item": "product", "sale": "order"}, kind="kind", key="key", each="events")


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
