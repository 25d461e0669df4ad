"""Conflicts as people meet them in the admin: a client that fills in the page's form."""

import re
from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from entities.models import Contact
from sync.models import Conflict
from tests.integration.sync_support import TestDevice, update

LIST = "/admin/sync/conflict/"


def met(tablet: TestDevice, server: dict[str, Any], device: dict[str, Any], **row: Any) -> tuple[Contact, Conflict]:
    """A contact that the server and the device changed differently, and the conflict over it."""
    contact = Contact.objects.create(**({"first_name": "Maria", "last_name": "Anders"} | row))
    Contact.objects.filter(pk=contact.pk).update(**server)
    (answer,) = tablet.push(update(str(contact.pk), 1, **device))
    contact.refresh_from_db()
    return contact, Conflict.objects.get(pk=answer["conflict"])


def address(conflict: Conflict) -> str:
    return f"{LIST}{conflict.pk}/change/"


def read(client: Client, at: str) -> str:
    """A page's HTML as it is sent, white space as a browser shows it."""
    answer = client.get(at)
    assert answer.status_code == 200, answer.status_code
    return " ".join(answer.content.decode().split())


def text_of(html: str) -> str:
    """What a reader sees of HTML."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())


def filled(client: Client, conflict: Conflict, **picks: str) -> dict[str, str]:
    """The form of a conflict's page as a browser sends it: what was picked before, and `picks` over it."""
    html = read(client, address(conflict))
    hidden = dict(re.findall(r'name="(rev|seen)" value="(\d+)"', html))
    checked = {
        name: value
        for name, value, state in re.findall(r'type="radio" name="([\w-]+)" value="(\w+)" id="[\w-]+"( checked)?', html)
        if state
    }
    return hidden | checked | {key.replace("_", "-", 1): value for key, value in picks.items()} | {"_save": "1"}


def decide(client: Client, conflict: Conflict, **picks: str) -> Any:
    """Send a decision as the page's form does. `pick_phone="device"`, `own_phone="1"`, `whole_row="server"`."""
    return client.post(address(conflict), filled(client, conflict, **picks))


def somebody(name: str, *permissions: str) -> User:
    """A person of the staff with these permissions alone, such as `view_conflict`."""
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    assert user.user_permissions.count() == len(permissions)
    return user
