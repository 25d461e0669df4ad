"""What webhooks told becomes rows, within a run: each record is fetched as it is now, and applied as a poll would.

Whoever is here holds the system's lock, so there is one writer. A claim with a lease is beside that: it says which
hints a killed process had taken up, and a hint that came again while it was worked on is not taken for done.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction

from legacy.apply import delete, storable_only
from legacy.connector import Misconfigured, Record, Unreachable
from legacy.exchange import Exchange, Superseded, quiet
from legacy.mapping import Mapping as Declared
from legacy.models import Waiting
from legacy.pull import hold, news, take_now, takes_deletes
from legacy.safety import may_delete
from legacy.webhooks.hook import Event, Hook, Unreadable
from legacy.webhooks.models import Hint
from sync.sql import block, cursor

SQL = str(Path(__file__).with_name("webhooks.sql"))
BATCH_RECORDS = 100  # claimed, and fetched in one call
LEASE_SECONDS = 60  # after which a hint whose process was killed is taken up again
ATTEMPTS_MAX = 8  # of a hint that fails in a way that nobody foresaw, or ends the process
PAUSE_MINUTES_MAX = 60  # between them: 1, 2, 4, … minutes
AWAY_SECONDS = 60  # until it is tried again whether a system answers; that counts as no attempt

Outcome = Hint.Outcome
Became = dict[str, str]  # key → what became of the record


def take_hints(exchange: Exchange, now: datetime, hook: Hook | None, operation: UUID | None = None) -> None:
    """Process what webhooks told and is due; of one `operation`, what is not begun yet, due or not.

    Raises what the connector raises; what was claimed then waits for another time.
    """
    if exchange.pretend:
        return
    closed = [m.name for m in exchange.mappings.values() if m.window and not m.window.is_open(now)]
    claim = uuid4()
    while hints := _claim(exchange.system, now, claim, closed, operation):
        _take(_Taking(exchange, hook, claim, now), hints)


class _Taking:
    """One batch on its way."""

    def __init__(self, exchange: Exchange, hook: Hook | None, claim: UUID, now: datetime) -> None:
        self.exchange, self.hook, self.claim, self.now = exchange, hook, claim, now

    def settle(self, hints: Collection[Hint], became: Mapping[str, str]) -> None:
        """Note what became of them. One that nothing is known of was no news."""
        settled = [{"id": hint.pk, "outcome": became.get(hint.key, Outcome.UNCHANGED)} for hint in hints]
        with cursor() as bound:
            bound.execute(block(SQL, "settle"), {"settled": json.dumps(settled), "claim": self.claim})

    def mine(self, hints: Collection[Hint]) -> Any:
        ids = [hint.pk for hint in hints]
        return Hint.objects.filter(pk__in=ids, claim=self.claim, state=Hint.State.WAITING)


def _claim(system: str, now: datetime, claim: UUID, closed: Sequence[str], operation: UUID | None) -> list[Hint]:
    until = now + timedelta(seconds=LEASE_SECONDS)
    parameters = {"system": system, "now": now, "claim": claim, "closed": list(closed), "operation": operation}
    with transaction.atomic(), cursor() as bound:
        bound.execute(block(SQL, "claim"), parameters | {"until": until, "limit": BATCH_RECORDS})
        ids = [id for (id,) in bound.fetchall()]
    return list(Hint.objects.filter(pk__in=ids).select_related("operation").order_by("pk"))


def _take(taking: _Taking, hints: list[Hint]) -> None:
    exchange = taking.exchange
    worn = [hint for hint in hints if hint.attempts > ATTEMPTS_MAX]
    _give_up(taking, worn, "Each time that it was worked on, the process ended.")
    by_mapping: dict[str, list[Hint]] = {name: [] for name in exchange.mappings}
    for hint in hints:
        if hint not in worn:
            by_mapping.setdefault(hint.mapping, []).append(hint)
    try:
        for name, some in by_mapping.items():  # in the mappings' order: what is referred to comes first
            if some:
                _take_safely(taking, name, some)
    except (Unreachable, Misconfigured, Superseded):
        later = taking.now + timedelta(seconds=AWAY_SECONDS)
        for attempts in {hint.attempts for hint in hints}:
            taking.mine([h for h in hints if h.attempts == attempts]).update(next_at=later, attempts=attempts - 1)
        raise


def _take_safely(taking: _Taking, name: str, hints: list[Hint]) -> None:
    """A record that fails in a way that nobody foresaw is found, put off, and holds no other up."""
    try:
        mapping = taking.exchange.mappings.get(name)
        if mapping is None:
            raise Unreadable(f"{taking.exchange.system} has no mapping {name!r}.")
        _take_records(taking, mapping, hints)
    except (Unreachable, Misconfigured, Superseded):
        raise
    except Exception as error:
        keys = sorted({hint.key for hint in hints})
        if len(keys) > 1:
            for key in keys:
                _take_safely(taking, name, [hint for hint in hints if hint.key == key])
            return
        _put_off(taking, hints, f"{type(error).__name__}: {error}")


def _put_off(taking: _Taking, hints: list[Hint], error: str) -> None:
    for hint in hints:
        if hint.attempts >= ATTEMPTS_MAX:
            _give_up(taking, [hint], error)
        else:
            pause = timedelta(minutes=min(2 ** (hint.attempts - 1), PAUSE_MINUTES_MAX))
            taking.mine([hint]).update(next_at=taking.now + pause, error=error)


def _give_up(taking: _Taking, hints: list[Hint], error: str) -> None:
    if hints:
        taking.mine(hints).update(state=Hint.State.DEAD, error=error, done_at=taking.now)


# --- one mapping's records ---


def _take_records(taking: _Taking, mapping: Declared, hints: list[Hint]) -> None:
    exchange = taking.exchange
    if not mapping.pulls:
        return taking.settle(hints, {hint.key: Outcome.NOT_TAKEN for hint in hints})
    became: Became = {}
    if exchange.connector.capabilities.fetches:
        keys = list(dict.fromkeys(hint.key for hint in hints))
        records = exchange.connector.fetch(mapping.source, mapping.places, keys)
        gone = set(keys) - {record.key for record in records}
    else:
        records, gone = _as_told(taking, mapping, hints, became)
    _apply(taking, mapping, records, [hint for hint in hints if hint.key not in gone], became)
    _delete(taking, mapping, gone, [hint for hint in hints if hint.key in gone])
    return None


def _apply(taking: _Taking, mapping: Declared, records: list[Record], hints: list[Hint], became: Became) -> None:
    exchange = taking.exchange
    fresh, _ = news(exchange, mapping, records)
    aside = exchange.put_aside(mapping, records)
    became |= dict.fromkeys(aside, Outcome.UNDECIDED)
    if mapping.only_if:
        became |= {r.key: Outcome.NOT_TAKEN for r in records if not mapping.only_if(r.values)}

    def note(name: str, key: str, what: str) -> None:
        if name == mapping.name:
            became[key] = what

    def then() -> None:
        # What an unfinished run had read of them is older than this.
        waiting = Waiting.objects.filter(system=exchange.system, mapping=mapping.name, gone=False)
        waiting.filter(key__in=[record.key for record in records]).delete()
        taking.settle(hints, became)

    exchange.became = note
    try:
        take_now(exchange, mapping, storable_only(exchange, mapping, fresh), then)
    finally:
        exchange.became = quiet


def _delete(taking: _Taking, mapping: Declared, gone: Collection[str], hints: list[Hint]) -> None:
    """Delete the rows of what is gone there, or leave it to the next run, whose safety stop asks a person."""
    exchange = taking.exchange
    linked = set(exchange.known(mapping.name, gone)) if gone else set()
    became: Became = {key: Outcome.KEPT if key in linked else Outcome.UNKNOWN for key in gone}
    if not linked or not takes_deletes(mapping):
        return taking.settle(hints, became)

    def note(_name: str, key: str, what: str) -> None:
        became[key] = what

    allowed = may_delete(exchange, mapping, len(linked))
    exchange.became = note
    try:
        with exchange.writing():
            if allowed:
                Waiting.objects.filter(system=exchange.system, mapping=mapping.name, key__in=linked).delete()
                delete(exchange, mapping, linked)
            else:
                hold(exchange, mapping, [Record(key, {}) for key in sorted(linked)], gone=True)
                became |= dict.fromkeys(linked, Outcome.HELD)
            taking.settle(hints, became)
    finally:
        exchange.became = quiet
    return None


# --- systems that cannot be asked ---


def _as_told(taking: _Taking, mapping: Declared, hints: list[Hint], became: Became) -> tuple[list[Record], set[str]]:
    """The records as the bodies have them, and what they say is gone; for each record the newest event alone counts."""
    if taking.hook is None or not taking.hook.payload_is_record:
        became |= {hint.key: Outcome.LEFT_TO_RUN for hint in hints}
        return [], set()
    known = _known_since(taking.exchange.system, mapping, [hint.key for hint in hints])
    latest: dict[str, Event] = {}
    for hint in hints:
        event = taking.hook.told(bytes(hint.operation.body))[hint.place]
        before = latest[hint.key].at if hint.key in latest else known.get(hint.key)
        if before is None or (event.at is not None and event.at >= before):
            latest[hint.key] = event
        elif hint.key not in latest:
            became[hint.key] = Outcome.SUPERSEDED
    for key in latest:
        became.pop(key, None)
    records = [Record(key, event.values) for key, event in latest.items() if event.values is not None]
    return records, {key for key, event in latest.items() if event.values is None}


def _known_since(system: str, mapping: Declared, keys: Sequence[str]) -> dict[str, datetime]:
    """Of when what we have of each record is: the time of the newest event, or of a poll that read it after that.

    A poll's time is by our clock. Where theirs is behind, an event may be dropped that is newer; the next poll has it.
    """
    parameters = {"system": system, "mapping": mapping.name, "keys": list(keys)}
    with cursor() as bound:
        found = {key: (at, done) for key, at, done in bound.execute(block(SQL, "newest"), parameters)}
        polled = dict(bound.execute(block(SQL, "agreed_at"), parameters).fetchall())
    told = {key: at for key, (at, _) in found.items()}
    return told | {key: at for key, at in polled.items() if key not in found or at > found[key][1]}
