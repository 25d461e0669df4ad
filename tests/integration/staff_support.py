"""A person as tests of the staff API see one."""

from typing import Any
from uuid import uuid4

from django.contrib.auth.models import Permission, User
from django.test import Client
from rest_framework.authtoken.models import Token


class Staff:
    """A person with these permissions (none named: all), who calls with a token."""

    def __init__(self, *names: str, is_staff: bool = True) -> None:
        self.user = User.objects.create_user(f"u{uuid4()}", is_staff=is_staff, is_superuser=not names)
        for name in names:
            app, _, codename = name.partition(".")
            self.user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        self.headers = {"authorization": f"Token {Token.objects.create(user=self.user).key}"}
        self.author = f"user:{self.user.username}"

    def ask(self, path: str, **query: Any) -> Any:
        return Client().get(f"/api/{path}", query, headers=self.headers)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask(path, **query)
        assert answer.status_code == 200, answer.content
        return answer.json()

    def send(self, path: str, body: Any) -> Any:
        return Client().post(f"/api/{path}", body, "application/json", headers=self.headers)

    def post(self, path: str, body: Any) -> Any:
        answer = self.send(path, body)
        assert answer.status_code == 200, answer.content
        return answer.json()
