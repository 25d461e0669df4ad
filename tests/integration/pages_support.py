"""The admin's pages as somebody reads them, and people who may do some of it."""

from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

EVIL = "<script>alert(1)</script>"  # is in names and values, and never in a page as it is


def shown(client: Client, address: str, status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.content[:500]
    return text(answer)


def text(answer: Any) -> str:
    """What was answered, white space as a browser shows it."""
    found = answer.content.decode()
    assert EVIL not in found
    return " ".join(unescape(found).split())


def clerk(*permissions: str) -> Client:
    """Somebody of the staff who may do just this, logged in."""
    user = User.objects.create_user(f"clerk{User.objects.count()}", password="x", is_staff=True)
    for each in permissions:
        app, _, codename = each.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client
