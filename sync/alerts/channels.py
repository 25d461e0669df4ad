"""The ways to tell people: e-mail and signed webhooks, as the settings have them. What and when, `alerts` says."""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings
from django.core.mail import EmailMultiAlternatives

from sync.models import AlertMessage
from sync.outbound import Answer, host_of, may_be_called, post, signed

SECRET_BYTES_MIN = 24  # what Standard Webhooks asks for


@dataclass(frozen=True, slots=True)
class Mail:
    recipients: tuple[str, ...]
    name: str = "mail"

    @property
    def problem(self) -> str:
        """What is wrong with its settings; empty: nothing."""
        bad = [address for address in self.recipients if not re.fullmatch(r"[^@\s<>,]+@[^@\s<>,]+", address)]
        return "SYNC_ALERT_MAIL_TO must be e-mail addresses, separated by commas." if bad else ""

    def send(self, message: AlertMessage) -> None:
        """Raises what the mail server or the way there raises. A second try has the same Message-ID."""
        body = json.loads(message.body)
        host = host_of(settings.SYNC_PUBLIC_URL) or "syncserver"
        headers = {"Message-ID": f"<{message.id}@{host}>", "Auto-Submitted": "auto-generated"}
        mail = EmailMultiAlternatives(body["subject"], body["text"], to=list(self.recipients), headers=headers)
        mail.attach_alternative(body["html"], "text/html")
        mail.send()


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str

    @property
    def name(self) -> str:
        """Its host and a digest of its address, whose path may be a secret."""
        return f"webhook {host_of(self.url)} {hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    @property
    def problem(self) -> str:
        """What is wrong with its settings; empty: nothing."""
        if not may_be_called(self.url):
            return "SYNC_ALERT_WEBHOOK_URLS must begin with https://."
        if not settings.SYNC_ALERT_WEBHOOK_SECRETS or not all(map(_is_secret, settings.SYNC_ALERT_WEBHOOK_SECRETS)):
            return f"SYNC_ALERT_WEBHOOK_SECRETS must be whsec_ and {SECRET_BYTES_MIN} random bytes or more in base64."
        return ""

    def send(self, message: AlertMessage) -> Answer:
        """Raises what httpx raises. A second try has the same webhook-id. Redirects are not followed: they refuse."""
        secrets = settings.SYNC_ALERT_WEBHOOK_SECRETS
        headers = signed(f"msg_{message.id.hex}", message.body, secrets, datetime.now(UTC))
        return post(self.url, message.body, headers, settings.SYNC_ALERT_TIMEOUT_SECONDS)


def channels() -> list[Mail | Webhook]:
    """Those in the settings, whether or not they can work."""
    mail = [Mail(tuple(settings.SYNC_ALERT_MAIL_TO))] if settings.SYNC_ALERT_MAIL_TO else []
    return [*mail, *(Webhook(url) for url in dict.fromkeys(settings.SYNC_ALERT_WEBHOOK_URLS))]


def attempt(channel: Mail | Webhook, message: AlertMessage) -> Answer:
    """Try to send. Raises nothing: whatever is wrong with one channel must not keep another from telling."""
    try:
        return channel.send(message) or Answer()
    except Exception as error:
        code = getattr(error, "smtp_code", None)
        return Answer(type(error).__name__ + (f" {code}" if code else ""))


def _is_secret(text: str) -> bool:
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith("whsec_") and len(secret) >= SECRET_BYTES_MIN
