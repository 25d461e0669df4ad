"""Webhooks that go out: each subscription is told what is new in the feed, page by page, until it has all of it."""

import base64
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_bytes
from uuid import UUID, uuid4, uuid5

import httpx
import msgspec
from django.conf import settings
from django.utils import timezone

from legacy.connector import Misconfigured
from legacy.secret import reseal, seal, unseal
from legacy.webhooks.feed import Change, begin, next_page, pass_page
from legacy.webhooks.subscriptions import Subscription
from legacy.webhooks.take import SQL
from sync.outbound import PAUSES_MINUTES, Answer, NotPublic, PublicOnly, host_of, is_loopback, is_public, post, signed
from sync.sql import block, cursor

TIMEOUT_SECONDS = 10  # for each step of a delivery
LEASE_SECONDS = 300  # of a process, renewed with each page: far longer than a page may take
PAGES_PER_TURN = 20  # then it is another subscription's turn
SECRET_BYTES = 32
SECRET_HOURS = 24  # that the secret before a new one signs too


@dataclass
class Told:
    """How one subscription did."""

    pages: int = 0
    changes: int = 0
    error: str = ""


class _Lost(Exception):
    """Another process has taken the subscription over: this one was thought dead."""


def deliver_due(now: datetime | None = None) -> dict[str, Told]:
    """Deliver to every subscription that is due, until each has all or fails; by id, how each did.

    Any number of processes may do this at once: each takes subscriptions that no other has.
    """
    told: dict[str, Told] = {}
    finished: list[UUID] = []
    while True:
        served: list[UUID] = []
        while subscription := _take(now or timezone.now(), [*finished, *served]):
            did = told.setdefault(str(subscription.pk), Told())
            more = _deliver(subscription, did, now)
            (served if more else finished).append(subscription.pk)
        if not served:
            return told


def send_test(subscription: Subscription) -> Answer:
    """Send a message that says nothing, to see whether it arrives. Raises nothing."""
    return _send(subscription, f"msg_{uuid4().hex}", "sync.test", {})


def resume(subscription: Subscription) -> None:
    """Go on where it stopped."""
    Subscription.objects.filter(pk=subscription.pk).update(
        enabled=True, stopped_at=None, failing_since=None, attempts=0, error="", next_at=timezone.now()
    )


def skip(subscription: Subscription) -> list[Change]:
    """Pass over the page that it does not accept, and go on after it. Returns what it is not told."""
    changes = next_page(subscription)
    if changes:
        pass_page(subscription)
    subscription.claim, subscription.leased_until = None, None
    subscription.save()
    resume(subscription)
    return changes


def start_over(subscription: Subscription) -> None:
    """Tell it every row again, after a message that says so. Whoever is delivering to it stops."""
    begin(subscription, whole=True)
    subscription.loads += 1
    subscription.resets, subscription.claim, subscription.leased_until = True, None, None
    subscription.save()
    resume(subscription)


def new_secret() -> str:
    """As Standard Webhooks has them."""
    return "whsec_" + base64.b64encode(token_bytes(SECRET_BYTES)).decode()


def renew_secret(subscription: Subscription) -> str:
    """The new secret. The one before signs too for SECRET_HOURS, where it can still be read."""
    secret, before = new_secret(), ""
    with suppress(Misconfigured):
        before = reseal(subscription.sealed)
    until = timezone.now() + timedelta(hours=SECRET_HOURS)
    Subscription.objects.filter(pk=subscription.pk).update(
        sealed=seal(secret), sealed_before=before, before_until=until
    )
    return secret


def problem_of(url: str) -> str:
    """What is wrong with an address; empty: nothing that can be seen without asking it."""
    scheme, host = url.partition("://")[0].lower(), host_of(url)
    if not host or "@" in url.partition("://")[2].partition("/")[0]:
        return "This is no address of a web server, or has a password in it."
    if settings.LEGACY_SUBSCRIPTION_PRIVATE:
        return "" if scheme in {"http", "https"} else "It must begin with https:// or http://."
    if scheme != "https":
        return "It must begin with https://."
    return "It is an address of this machine or of an inner network." if _is_inside(host) else ""


def _is_inside(host: str) -> bool:
    try:
        return is_loopback(host) or not is_public(host)
    except ValueError:
        return False  # a name: it is resolved, and looked at, when it is called


# --- one subscription ---


def _take(now: datetime, served: list[UUID]) -> Subscription | None:
    until = now + timedelta(seconds=LEASE_SECONDS)
    parameters = {"now": now, "until": until, "claim": uuid4(), "served": [str(each) for each in served]}
    with cursor() as bound:
        found = bound.execute(block(SQL, "take_subscription"), parameters).fetchone()
    return Subscription.objects.get(pk=found[0]) if found else None


def _deliver(subscription: Subscription, told: Told, now: datetime | None) -> bool:
    """Tell what is new; whether there is more. What ends it in the middle is seen in the lease that runs out."""
    try:
        for _ in range(PAGES_PER_TURN):
            changes = next_page(subscription)
            _save(subscription, now)  # its end before it is sent: sent again, it must not hold more
            if subscription.resets:
                if not _tell(subscription, told, "sync.reset", [], now):
                    break
                subscription.resets = False
            if not changes or not _tell(subscription, told, "sync.changes", changes, now):
                break
        else:
            _save(subscription, now, release=True)
            return True
        _save(subscription, now, release=True)
    except _Lost:
        pass
    return False


def _tell(subscription: Subscription, told: Told, kind: str, changes: list[Change], now: datetime | None) -> bool:
    """Send one message; whether it was accepted."""
    answer = _send(subscription, message_id(subscription, kind), kind, {"changes": changes})
    _settle(subscription, answer, now or timezone.now())
    if answer.error:
        told.error = answer.error
        return False
    if changes:
        told.pages, told.changes = told.pages + 1, told.changes + len(changes)
        subscription.delivered += len(changes)
        pass_page(subscription)
    return True


def message_id(subscription: Subscription, kind: str) -> str:
    """The same each time that a page is sent, and another one for each page."""
    position = f"{kind} {subscription.loads} {subscription.epoch} {subscription.target} "
    return f"msg_{uuid5(subscription.pk, f'{position}{subscription.to_xid}:{subscription.to_seq}').hex}"


def _settle(subscription: Subscription, answer: Answer, now: datetime) -> None:
    if not answer.error:
        subscription.attempts, subscription.failing_since, subscription.error = 0, None, ""
        subscription.delivered_at = timezone.now()
        return
    subscription.attempts += 1
    subscription.error = answer.error
    subscription.failing_since = subscription.failing_since or now
    if answer.gone:
        subscription.enabled = False
        subscription.error = "answered 410: it wants nothing any more"
    elif subscription.attempts > len(PAUSES_MINUTES):
        subscription.stopped_at = now
    else:
        pause = timedelta(minutes=PAUSES_MINUTES[subscription.attempts - 1])
        subscription.next_at = now + max(pause, timedelta(seconds=answer.retry_after_seconds))


_DELIVERED = (
    "epoch base target at_xid at_seq to_xid to_seq loads resets attempts next_at failing_since stopped_at error "
    "delivered_at delivered"
).split()


def _save(subscription: Subscription, now: datetime | None, release: bool = False) -> None:
    """Raises _Lost where somebody else has it by now. What a person edits meanwhile is left as it is."""
    values = {name: getattr(subscription, name) for name in _DELIVERED}
    if not subscription.enabled:
        values["enabled"] = False
    until = None if release else (now or timezone.now()) + timedelta(seconds=LEASE_SECONDS)
    mine = Subscription.objects.filter(pk=subscription.pk, claim=subscription.claim)
    if not mine.update(leased_until=until, **values):
        raise _Lost


# --- sending ---


class _Message(msgspec.Struct):
    type: str
    timestamp: datetime
    data: dict[str, object]


def _send(subscription: Subscription, id: str, kind: str, data: dict[str, object]) -> Answer:
    """Raises nothing: whatever is wrong with one receiver must not keep another from being told."""
    at = datetime.now(UTC)
    message = _Message(kind, at, {"subscription": str(subscription.pk), **data})
    body = msgspec.json.encode(message).decode()
    if problem := problem_of(subscription.url):
        return Answer(problem)
    transport = None if settings.LEGACY_SUBSCRIPTION_PRIVATE else PublicOnly(trust_env=False)
    try:
        headers = signed(id, body, _secrets(subscription), at)
        return post(subscription.url, body, headers, TIMEOUT_SECONDS, transport)
    except (Misconfigured, NotPublic) as error:
        return Answer(str(error))
    except httpx.HTTPError as error:
        return Answer(type(error).__name__)


def _secrets(subscription: Subscription) -> list[str]:
    """The newest first. Raises Misconfigured."""
    sealed = reseal(subscription.sealed)
    if sealed != subscription.sealed:
        Subscription.objects.filter(pk=subscription.pk, sealed=subscription.sealed).update(sealed=sealed)
        subscription.sealed = sealed
    secrets = [unseal(subscription.sealed)]
    if subscription.sealed_before and subscription.before_until and subscription.before_until > timezone.now():
        secrets.append(unseal(subscription.sealed_before))
    return secrets
