"""Webhooks that go out, as people handle them: the command, and the pages of subscriptions in the admin."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client

from entities.models import Customer
from legacy.webhooks.outbox import deliver_due
from legacy.webhooks.subscriptions import Subscription
from tests.integration.subscription_support import Receiver, subscribe

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("subscriptions_on_loopback")]
LIST = "/admin/legacy/subscription/"


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
