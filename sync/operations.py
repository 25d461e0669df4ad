"""Pushes that their devices do not wait for: stored, answered with 202, and applied in the order in which they came.

Whoever applies them, the worker or the device's own next push, `sync.states.locking` keeps their order. Applied twice,
a push finds its results: so one whose process was killed is simply applied again.
"""

import datetime as dt
import logging
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateWorker
from procrastinate.exceptions import AlreadyEnqueued

from devices.models import Device
from devices.usage import count_changes
from sync.healing import replay_waiting
from sync.models import Operation
from sync.mutation import parse_batch
from sync.push import push
from sync.states import Earlier, Pusher
from syncserver.errors import Problem
from syncserver.http import problem_of

JOB = "sync.operations"
TRIES_MAX = 5  # of one that fails by a fault of the server, and not for lack of its database
State = Operation.State
_NULL = msgspec.Raw(b"null")

log = logging.getLogger(__name__)


class _Answer(msgspec.Struct):
    results: msgspec.Raw


class _Shown(msgspec.Struct):
    results: list[dict[str, msgspec.Raw]]


class Told(msgspec.Struct, omit_defaults=True):
    """The answer to `GET /sync/operations/<id>`: `results` as a push has them, or the `problem` that refused it."""

    state: str
    results: msgspec.Raw | None = None
    problem: dict[str, Any] | None = None


_read = msgspec.json.Decoder(_Answer)
_read_shown = msgspec.json.Decoder(_Shown)


def worker_is_there() -> bool:
    """Whether a worker is alive."""
    since = timezone.now() - dt.timedelta(seconds=settings.WORKER_DEAD_SECONDS)
    return ProcrastinateWorker.objects.filter(last_heartbeat__gt=since).exists()


def accept(device: UUID, body: bytes) -> UUID | None:
    """Store a push for later and return its operation's id; None where it is to be applied at once.

    That is so where no worker is there, or the device has SYNC_OPERATIONS_QUEUED_MAX waiting. Raises Problem as `push`
    does for a body that cannot be read, and `rate_limited`.
    """
    batch = parse_batch(body, settings.SYNC_PUSH_MUTATIONS_MAX)
    waiting = Operation.objects.filter(device=device, ended_at=None)
    if waiting.count() >= settings.SYNC_OPERATIONS_QUEUED_MAX or not worker_is_there():
        return None
    now = timezone.now()
    with transaction.atomic():
        count_changes(device, len(batch.mutations), now)
        stored = Operation.objects.create(device=device, received_at=now, body=body)
        ask(device)
    return stored.id


def ask(device: UUID) -> None:
    """Have a worker apply what the device has waiting."""
    name = f"{JOB} {device}"
    with suppress(AlreadyEnqueued), transaction.atomic():  # or the caller's transaction would be lost with it
        app.configure_task(JOB, lock=name, queueing_lock=name).defer(device=str(device))


def ask_for_all() -> None:
    """The same for every device: what a worker that was killed has left."""
    for device in Operation.objects.filter(ended_at=None).order_by().values_list("device", flat=True).distinct():
        ask(device)


def push_in_turn(device: Device, body: bytes) -> bytes:
    """Push for a device that waits for the answer, after what it did not wait for. Raises Problem."""
    answer = _push_in_turn(Pusher(device.id, device.scopes), body)
    if b'"lost"' in body:  # what came back after a restore may be what others wait for
        replay_waiting()
    return answer


def _push_in_turn(pusher: Pusher, body: bytes) -> bytes:
    try:
        return push(pusher, body)
    except Earlier:
        work_off(pusher.device)
    try:
        return push(pusher, body)
    except Earlier:  # more came meanwhile
        raise Problem("service_unavailable", "Earlier pushes are being applied.", retry_after_seconds=1) from None


def work_off(device: UUID) -> None:
    """Apply what a device has waiting. Raises Problem and database errors; what was not applied waits on."""
    while (operation := Operation.objects.filter(device=device, ended_at=None).order_by("number").first()) is not None:
        try:
            _apply(operation)
        except Earlier:  # somebody else has just applied the one before it
            continue


def _apply(operation: Operation) -> None:
    this = Operation.objects.filter(pk=operation.pk, ended_at=None)
    this.update(state=State.RUNNING)
    # As they are now. That the device was revoked since does not take back what it had sent before.
    scopes = Device.objects.get(pk=operation.device).scopes
    pusher = Pusher(operation.device, scopes, operation.pk)
    try:
        answer = push(pusher, bytes(operation.body), operation.received_at)
    except Earlier:
        raise
    except Exception as error:
        problem = problem_of(error)
        if problem.code == "service_unavailable":
            raise
        if problem.status >= 500 and operation.tries + 1 < TRIES_MAX:
            this.update(tries=operation.tries + 1)
            raise
        log.warning("a push was refused", exc_info=error, extra={"operation": str(operation.id)})
        this.update(state=State.FAILED, problem=problem.as_dict(), body=b"", ended_at=timezone.now())
    else:
        this.update(state=State.DONE, results=answer, scopes=scopes, body=b"", ended_at=timezone.now())


def outcome(device: Device, id: UUID) -> bytes | None:
    """What became of a push, for its own device, as the answer's body; None where it has no such operation.

    Where the device has lost a scope since, it is told the results without the rows.
    """
    found = Operation.objects.filter(device=device.id, id=id).first()
    if found is None:
        return None
    told = Told(found.state, problem=found.problem)
    if found.results:
        told.results = _read.decode(bytes(found.results)).results
        if not set(found.scopes) <= set(device.scopes):
            told.results = msgspec.Raw(msgspec.json.encode(_without_rows(bytes(found.results))))
    return msgspec.json.encode(told)


def _without_rows(answer: bytes) -> list[dict[str, msgspec.Raw]]:
    shown = _read_shown.decode(answer).results
    return [{**result, "row": _NULL} if "row" in result else result for result in shown]
