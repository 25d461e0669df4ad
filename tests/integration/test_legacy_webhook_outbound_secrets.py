"""The secrets that sign webhooks that go out: each is replaced with no delivery lost, and so is what seals them."""

import secrets
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command

from entities.models import Customer
from legacy.secret import seal
from legacy.webhooks import outbox
from legacy.webhooks.outbox import deliver_due, new_secret, renew_secret, resume, send_test
from tests.integration.subscription_support import Receiver, fresh, later, subscribe

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("subscriptions_on_loopback")]


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


def test_new_secrets_are_not_alike() -> None:
    assert new_secret() != new_secret()
    assert seal("a") != seal("a")
