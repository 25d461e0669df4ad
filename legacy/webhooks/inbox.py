"""Webhooks that come in: stored before they are answered, then applied at once or soon."""

import hashlib
import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import transaction
from django.utils import timezone

from legacy.connector import Misconfigured
from legacy.exchange import Exchange
from legacy.runs import run
from legacy.stored import storable
from legacy.systems import System, declared, system
from legacy.webhooks.hook import Event, Hook, Unreadable
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.take import BATCH_RECORDS, LEASE_SECONDS, SQL, take_hints
from legacy.webhooks.verifiers import Delivery, secrets_of
from sync.alone import Busy
from sync.sql import block, cursor

log = logging.getLogger(__name__)
_LINKS = Signer(salt="legacy.operation")


def listening(name: str) -> tuple[System, Hook] | None:
    """The system with that name, where it has a webhook. Raises Misconfigured where LEGACY_SYSTEMS is wrong."""
    return next(((each, each.webhook) for each in declared() if each.name == name and each.webhook), None)


def receive(named: System, hook: Hook, delivery: Delivery) -> Operation:
    """Verify a delivery, store it, and apply it where the hook is synchronous and nobody else is at work.

    Raises Forged, and Unreadable for a body that does not say what it is about; that one is stored too, to be seen.
    """
    signed_id = hook.verifier.verify(delivery, secrets_of(named.name))
    operation, here = _store(named, hook, delivery, signed_id)
    if operation.error:
        raise Unreadable(operation.error)
    if here:
        _apply_now(named, operation)
    return operation


def process_due(now: datetime | None = None) -> dict[str, str]:
    """Apply what is due, of every system; the state of the run of each that had something, `busy` where another is on.

    Any number of processes may do this at once. What a killed one had begun is taken up when its lease runs out.
    """
    now = now or timezone.now()
    due = Hint.objects.filter(state=Hint.State.WAITING, next_at__lte=now)
    done: dict[str, str] = {}
    for name in sorted(due.values_list("system", flat=True).distinct()):
        try:
            done[name] = _run(system(name), now)
        except Misconfigured as error:
            log.error("webhooks of %s wait: %s", name, error)
            done[name] = "misconfigured"
    before = now - timedelta(days=settings.LEGACY_WEBHOOK_AGE_DAYS_MAX)
    with cursor() as bound:
        bound.execute(block(SQL, "forget"), {"before": before})
    return done


def link_to(operation: Operation) -> str:
    """Where whoever sent it can ask what became of it: its address with a signature, which nobody else was told."""
    return f"/legacy/operations/{operation.pk}?token={_LINKS.signature(str(operation.pk))}"


def is_link(id: str, token: str) -> bool:
    try:
        return _LINKS.unsign(f"{id}:{token}") == id
    except BadSignature:
        return False


# --- storing ---


@transaction.atomic
def _store(named: System, hook: Hook, delivery: Delivery, signed_id: str) -> tuple[Operation, bool]:
    """The operation, and whether its records are to be applied by whoever stored it.

    One that is known by the id that its sender signed was stored before, and is done or will be. One that is known by
    its body alone may tell of another change that looks the same, so what it asks for is done again.
    """
    events, error = _events(named, hook, delivery.body)
    identity = _identity(signed_id, events, delivery.body)
    operation, new = Operation.objects.select_for_update().get_or_create(
        system=named.name, identity=identity, defaults={"body": delivery.body, "error": error}
    )
    sync = hook.mode == "sync" and len(events) <= BATCH_RECORDS
    next_at = delivery.at + timedelta(seconds=LEASE_SECONDS if sync else 0)
    if not new and operation.error and not error:  # what could not be read then can be read by now
        operation.error = ""
        operation.save(update_fields=["error"])
        new = True
    if new:
        Hint.objects.bulk_create(
            Hint(
                operation=operation,
                system=named.name,
                mapping=each.mapping,
                key=each.key,
                place=place,
                at=each.at,
                next_at=next_at,
            )
            for place, each in enumerate(events)
        )
    elif identity.startswith("sha256:"):
        with cursor() as bound:
            bound.execute(block(SQL, "again"), {"operation": operation.pk, "next_at": next_at})
        new = True
    return operation, sync and new


def _events(named: System, hook: Hook, body: bytes) -> tuple[list[Event], str]:
    """What a body tells, or why nobody can tell."""
    try:
        events = hook.told(body)
    except Unreadable as error:
        return [], str(storable(str(error)))
    if unknown := {each.mapping for each in events} - {mapping.name for mapping in named.mappings}:
        return [], f"It is about {sorted(map(repr, unknown))[0]}, which is no mapping of {named.name}."
    return events, ""


def _identity(signed_id: str, events: list[Event], body: bytes) -> str:
    """What it is known by: an id of the sender's, which the signature covers, or else its whole body."""
    if signed_id:
        return f"id:{signed_id}"
    ids = [each.id for each in events]
    if ids and all(ids):
        return f"events:{hashlib.sha256(repr(ids).encode()).hexdigest()}"
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


# --- applying ---


def _apply_now(named: System, operation: Operation) -> None:
    """Whatever keeps it from being applied now, it is stored: then it is answered as an asynchronous one."""
    try:
        _run(system(named.name), timezone.now(), operation)
    except Exception as error:  # a connector's or a mapping's fault is not the caller's, who would only send it again
        log.error("webhooks of %s wait: %s", named.name, error, exc_info=error)
    Hint.objects.filter(operation=operation, state=Hint.State.WAITING, claim=None).update(next_at=timezone.now())


def _run(named: System, now: datetime, operation: Operation | None = None) -> str:
    """Raises nothing that a run raises: of what it could not do, the hints go on waiting."""

    def work(exchange: Exchange) -> None:
        take_hints(exchange, now, named.webhook, operation.pk if operation else None)

    try:
        return str(run(named, trigger="webhook", work=work).state)
    except Busy:
        return "busy"
