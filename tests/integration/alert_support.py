"""Runs of alerts, and receivers as they are elsewhere: an HTTP server that verifies what it gets, and a mail server."""

import base64
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any, Protocol

import pytest
from aiosmtpd.controller import Controller
from django.core.management import call_command
from pytest_django import Settings
from standardwebhooks.webhooks import Webhook

from sync.alerts.run import Report, run
from sync.models import Alert, Conflict
from tests.integration.attention_support import NOW, conflict

SECRET = "whsec_" + base64.b64encode(b"an alert receiver's secret").decode()


class Receiver:
    """Answers POSTs with `answers` in turn, the last for ever; keeps what it accepted and what it refused."""

    def __init__(self) -> None:
        self.answers: list[int] = [204]
        self.headers: dict[str, str] = {}  # of its answers
        self.hold = threading.Event()  # what it answers waits for it
        self.hold.set()
        self.arrived = threading.Event()
        self.tries: list[tuple[str, dict[str, Any]]] = []
        self.accepted: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """Raises WebhookVerificationError unless it is signed."""
        known = (headers["webhook-id"], Webhook(SECRET).verify(body, headers))
        self.tries.append(known)
        self.arrived.set()
        self.hold.wait(30)
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if 200 <= status < 300:
            self.accepted.append(known)
        return status

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The data of what was accepted, each message once, as a receiver does that knows ids."""
        return [body["data"] for body in dict(self.accepted).values() if body["type"] == kind]

    def alerts(self, kind: str) -> list[str]:
        """The subjects of the alerts that messages of a kind told, in order."""
        return [alert["subject"] for data in self.events(kind) for alert in data["alerts"]]


class Taker(Protocol):
    """What takes what is posted, and says with which status and headers it is answered."""

    headers: dict[str, str]

    def take(self, body: bytes, headers: dict[str, str], /) -> int: ...


@contextmanager
def listening(here: Taker) -> Iterator[str]:
    """The address of a web server on loopback for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = here.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            for name, value in here.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def receiver(settings: Settings | None = None) -> Iterator[Receiver]:
    """A receiver on loopback; with `settings`, it is the one that they name."""
    here = Receiver()
    with listening(here) as address:
        here.url = f"{address}/alerts"
        if settings is not None:
            settings.SYNC_ALERT_WEBHOOK_URLS = [*settings.SYNC_ALERT_WEBHOOK_URLS, here.url]
            settings.SYNC_ALERT_WEBHOOK_SECRETS = [SECRET]
            settings.SYNC_ALERT_WEBHOOK_LOOPBACK = True
        try:
            yield here
        finally:
            here.hold.set()


class Post:
    """An SMTP server's mailbox. `refuse`: what it answers instead of taking a mail."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse = ""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        self.mails.append(message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 taken"

    @property
    def subjects(self) -> list[str]:
        """Of the mails, each Message-ID once, as mail programs show them."""
        return list({mail["Message-ID"]: mail["Subject"] for mail in self.mails}.values())


@contextmanager
def post_office(settings: Settings) -> Iterator[Post]:
    """A mail server on loopback, which the settings name, with one recipient."""
    post = Post()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(post, hostname="127.0.0.1", port=port)
    controller.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.SYNC_ALERT_MAIL_TO = ["ops@example.org"]
    try:
        yield post
    finally:
        controller.stop()


def at(hours: float = 0, **more: float) -> Report:
    """A run at a time after NOW."""
    return run(now=NOW + timedelta(hours=hours, **more))


def decide() -> None:
    """About every conflict."""
    Conflict.objects.update(state="server")


def standing() -> list[tuple[str, str]]:
    """(kind, subject) of each alert that is not over."""
    return list(Alert.objects.filter(cleared_at=None).order_by("kind", "subject").values_list("kind", "subject"))


def command(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What `sync_alerts` prints, which has to exit with this code."""
    out = StringIO()
    try:
        call_command("sync_alerts", "--json", *arguments, stdout=out)
    except SystemExit as end:
        assert end.code == code
    else:
        assert code == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def late() -> None:
    """A conflict that waits too long, by the clock."""
    conflict(at=datetime.now(NOW.tzinfo) - timedelta(hours=25))


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture
def hook(settings: Settings) -> Iterator[Receiver]:
    with receiver(settings) as here:
        yield here


@pytest.fixture
def post(settings: Settings) -> Iterator[Post]:
    with post_office(settings) as here:
        yield here
