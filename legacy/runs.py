"""One run of `sync_legacy` against one system: first their changes, then ours."""

import datetime as dt
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypedDict, Unpack
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from legacy.check import check_against
from legacy.connector import Misconfigured, Unreachable
from legacy.exchange import Change, Exchange, Stopped, Superseded
from legacy.mapping import Mapping
from legacy.models import Counterpart, Run
from legacy.pull import pull
from legacy.push import push
from legacy.rollback import TakenBack, roll_back, take_back
from legacy.systems import System, ranks
from legacy.webhooks.hook import Hook
from legacy.webhooks.take import take_hints
from sync.alone import Busy, alone

State = Run.State
END_TRIES_MAX = 6  # each waits half a second for the lock of a process that is gone
EXIT_CODES = {
    State.DONE: 0,
    State.PAUSED: 0,
    State.PARTIAL: 1,
    State.UNREACHABLE: 2,
    State.MISCONFIGURED: 3,
    State.STOPPED: 4,
}


class How(TypedDict, total=False):
    """How a run goes about it: as in Exchange."""

    pretend: bool
    retry_all: bool
    force: bool
    tell: Callable[[str, int], None]
    show: Callable[[Change], None]


def run(
    system: System,
    *,
    only: Collection[str] = (),
    trigger: str = "command",
    work: Callable[[Exchange], None] | None = None,
    **how: Unpack[How],
) -> Run:
    """Execute one run and return it with its counts. Raises Busy; whatever else goes wrong is in the run's `state`.

    What was committed before it went wrong stays: the next run goes on from there. `only`: the names of mappings.
    `work`: what to do instead of exchanging all that changed.
    """
    with alone("sync_legacy", system.name):
        this = Run(system=system.name, started_at=timezone.now(), trigger=trigger)
        counterpart = Counterpart.objects.filter(system=system.name).first() or Counterpart(system=system.name)
        if not how.get("pretend"):
            if why := _left_alone(system, counterpart, how.get("force", False)):
                this.state, this.error, this.ended_at = *why, this.started_at
                return this
            _take_over(this)
        _run(system, this, counterpart, work or (lambda exchange: _exchange(exchange, only, system.webhook)), how)
        this.ended_at = timezone.now()
        if not how.get("pretend"):
            this.save()
            _remember(this)
        return this


def _left_alone(system: System, counterpart: Counterpart, force: bool) -> tuple[Run.State, str] | None:
    """Why a run does not begin: somebody switched the system off or paused it, or it did not answer for a while."""
    if not system.enabled:
        return State.PAUSED, f"{system.name} is switched off in the admin."
    if counterpart.paused_at and not force:
        why = counterpart.paused_why or "somebody paused it"
        return (
            State.PAUSED,
            f"{counterpart.system} is paused: {why}. sync_legacy --system {counterpart.system} --resume",
        )
    if counterpart.rests_until and counterpart.rests_until > timezone.now() and not force:
        until = counterpart.rests_until.isoformat(timespec="seconds")
        return State.UNREACHABLE, f"It did not answer {counterpart.failures} times and is left alone until {until}."
    return None


@transaction.atomic
def _take_over(this: Run) -> None:
    """From here on nothing is committed by a run that came before: a page that it is about to commit is waited for."""
    Counterpart.objects.get_or_create(system=this.system)
    Counterpart.objects.filter(system=this.system).update(fence=F("fence") + 1)
    this.fence = Counterpart.objects.get(system=this.system).fence
    # Nobody else is at work, so a run that still says so was killed.
    Run.objects.filter(system=this.system, state=State.RUNNING).update(state=State.KILLED, ended_at=timezone.now())
    this.save()


def _run(system: System, this: Run, counterpart: Counterpart, work: Callable[[Exchange], None], how: How) -> None:
    try:
        connector = system.connected()
        mappings = {each.name: each for each in system.mappings}
        exchange = Exchange(system.name, connector, mappings, this, ranks=ranks(), **how)
        try:
            identity = connector.open()
            exchange.tell(f"signed in as {identity}", 0)
            _recognise(exchange, counterpart, identity)
            for mapping in exchange.mappings.values():
                check_against(mapping, exchange.connector.capabilities)
            work(exchange)
            this.state = State.PARTIAL if exchange.failed else State.DONE
            if exchange.unread:
                this.error = f"Not read: {'; '.join(exchange.unread)}"
        except Stopped as stop:
            this.state, this.error = State.STOPPED, str(stop)
            if stop.undo and not exchange.pretend:
                this.error += f" {take_back(exchange).told}"
        finally:
            this.counts = {name: dict(counts) for name, counts in exchange.counts.items()}
            connector.close()
    except Unreachable as error:
        this.state, this.error = State.UNREACHABLE, system.hide(str(error))
    except Misconfigured as error:
        this.state, this.error = State.MISCONFIGURED, system.hide(str(error))
    except Superseded as error:
        this.state, this.error = State.KILLED, str(error)
    except Exception as error:  # of a connector or of ours: the run says so too
        this.state, this.error, this.ended_at = State.KILLED, f"{type(error).__name__}: {error}", timezone.now()
        if not how.get("pretend"):
            this.save()
        raise


def _recognise(exchange: Exchange, counterpart: Counterpart, identity: str) -> None:
    """Raises Stopped where they know us as somebody else than before: an expired key often still shows something."""
    if counterpart.identity not in ("", identity) and not exchange.force:
        raise Stopped(
            f"{exchange.system} knows us as {identity!r} and knew us as {counterpart.identity!r} before. If that is "
            f"right, sync_legacy --system {exchange.system} --force goes on."
        )
    if not exchange.pretend:
        Counterpart.objects.filter(system=exchange.system).update(identity=identity)


def _exchange(exchange: Exchange, only: Collection[str], webhook: Hook | None) -> None:
    now = timezone.now()
    take_hints(exchange, now, webhook)  # so that plain cron is enough for webhooks too
    chosen = [each for each in exchange.mappings.values() if not only or each.name in only]
    open_ = [each for each in chosen if _is_due(exchange, each, now)]
    # Theirs first: where both changed the same field, most mappings let the pre-existing system win.
    for mapping in open_:
        if mapping.pulls:
            pull(exchange, mapping)
    for mapping in open_:
        if mapping.both:
            push(exchange, mapping)


def _is_due(exchange: Exchange, mapping: Mapping, now: dt.datetime) -> bool:
    if mapping.window is None or exchange.force or mapping.window.is_open(now):
        return True
    exchange.tell(f"{mapping.name} runs from {mapping.window.begin} to {mapping.window.end} only", 0)
    return False


def _remember(this: Run) -> None:
    """The circuit breaker: a system that does not answer is asked less and less often."""
    found = Counterpart.objects.filter(system=this.system, fence=this.fence)
    if this.state != State.UNREACHABLE:
        found.update(failures=0, rests_until=None)
        return
    found.update(failures=F("failures") + 1)
    failures = found.values_list("failures", flat=True).first() or 0
    if failures >= settings.LEGACY_FAILURES_MAX:
        minutes = min(2 ** (failures - settings.LEGACY_FAILURES_MAX), settings.LEGACY_REST_MINUTES_MAX)
        found.update(rests_until=timezone.now() + dt.timedelta(minutes=minutes))


def end(system: str, state: Run.State, why: str) -> Run | None:
    """End a run whose process is gone, and so did not do it itself. None where there is none, or another is at work.

    PostgreSQL may need a moment to notice that the process is gone, and to let go of what it held.
    """
    for _ in range(END_TRIES_MAX):
        with suppress(Busy):
            return _end(system, state, why)
    return None


def _end(system: str, state: Run.State, why: str) -> Run | None:
    """Raises Busy."""
    with alone("sync_legacy", system):
        this = Run.objects.filter(system=system, state=State.RUNNING).order_by("-started_at").first()
        if this is not None:
            this.state, this.error, this.ended_at = state, why, timezone.now()
            this.save(update_fields=["state", "error", "ended_at"])
            if state == State.UNREACHABLE:
                _remember(this)
        return this


def pause(system: str, why: str) -> None:
    """Leave a system alone until somebody resumes it."""
    Counterpart.objects.update_or_create(system=system, defaults={"paused_at": timezone.now(), "paused_why": why})


def resume(system: str) -> None:
    """Work with a system again, also one that is left alone since it did not answer."""
    Counterpart.objects.filter(system=system).update(paused_at=None, paused_why="", rests_until=None, failures=0)


def roll_back_run(system: System, id: str, pretend: bool = False) -> TakenBack:
    """Undo what a run wrote here, as a run of its own. Raises Busy, and Misconfigured for a run that there is not."""
    with alone("sync_legacy", system.name):
        undone = Run.objects.filter(pk=id).first() if _is_uuid(id) else None
        if undone is None:
            raise Misconfigured(f"There is no run {id!r}. The admin lists them.")
        this = Run(system=system.name, started_at=timezone.now(), trigger="rollback", undoes=undone)
        if not pretend:
            _take_over(this)
        exchange = Exchange(
            system.name, system.connected(), {each.name: each for each in system.mappings}, this, pretend
        )
        try:
            found = roll_back(exchange, undone)
            this.state, this.counts = State.DONE, {"": dict(found.counts)}
        except Misconfigured as error:
            this.state, this.error = State.MISCONFIGURED, str(error)
            raise
        finally:
            this.ended_at = timezone.now()
            if not pretend:
                this.save()
        return found


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
