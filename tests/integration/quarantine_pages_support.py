"""The quarantine as people meet it in the admin: what devices had refused, and the form that mends it."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client

from sync.models import Rejection
from sync.pages.mend import MendForm, sent_by
from sync.pages.timeline import row_now
from sync.wire import entities
from tests.integration.pages_support import EVIL
from tests.integration.sync_support import Row, TestDevice, create

LIST = "/admin/sync/rejection/"
MEND = ("sync.change_rejection", "entities.view_contact", "entities.change_contact", "entities.add_contact")


def refused(device: TestDevice, *mutations: Row) -> Rejection:
    """The first of these mutations, in quarantine."""
    assert device.push(*mutations)[0]["status"] == "rejected"
    return Rejection.objects.get(mutation=mutations[0]["id"])


def bad_email(device: TestDevice, **more: Any) -> Rejection:
    return refused(device, create(first_name="Ana", email="ana at example", **more))


def page(rejection: Rejection) -> str:
    return f"{LIST}{rejection.pk}/change/"


def sent(rejection: Rejection, **changed: Any) -> dict[str, Any]:
    """The form as a browser sends it, with some of its fields changed."""
    request = HttpRequest()
    request.user = User.objects.get(is_superuser=True)
    now = row_now(rejection.entity, rejection.row_id)
    form = MendForm(request, entities()[rejection.entity], rejection.op, sent_by(rejection), now.values)
    given = {}
    for bound in form:
        value = bound.value()
        if value is not None and value is not False:
            given[bound.html_name] = "on" if value is True else str(value)
    return given | {f"set-{name}": value for name, value in changed.items()} | {"replay": ""}


def mend(client: Client, rejection: Rejection, **changed: Any) -> Any:
    return client.post(page(rejection), sent(rejection, **changed), follow=True)


def act(client: Client, action: str, *rejections: Rejection, **more: str) -> Any:
    data = {"action": action, "_selected_action": [str(each.pk) for each in rejections], **more}
    return client.post(LIST, data, follow=True)


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture
def device() -> TestDevice:
    """One whose name no page may show as it is."""
    made = TestDevice()
    made.device.name = f"Tablet {EVIL}"
    made.device.save()
    return made
