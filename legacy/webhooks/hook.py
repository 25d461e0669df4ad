"""What a system's webhook looks like: who signs it, and which records its bodies are about.

Hook(StandardWebhooks(), Where({"customer.updated": "customer", "customer.deleted": "customer"}, key="data.id"))
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from legacy.webhooks.verifiers import Verifier

EVENTS_MAX = 10_000  # records that one body may be about
KEY_CHARS_MAX = 500
YEAR_MIN, YEAR_MAX = 1970, 2200


class Unreadable(Exception):
    """A body does not say what the declaration looks for."""


@dataclass(frozen=True)
class Event:
    """Something happened to a record. That is a hint: what the record is now, the system is asked."""

    mapping: str
    key: str
    id: str = ""  # the sender's own, the same when it sends the event again
    at: datetime | None = None  # when it happened, by the sender's clock
    # The record by place, None: deleted. Looked at only where it counts as the record (`Hook.payload_is_record`).
    values: Mapping[str, Any] | None = None


def from_json(body: bytes) -> Any:
    return json.loads(body, parse_float=Decimal)


@dataclass(frozen=True)
class Hook:
    """How a system tells of changes. `events` makes events of what `read` makes of a body; a `Where` declares it.

    Sync: applied at once, and the answer says what became of it. Async: answered with 202, and applied soon.
    """

    verifier: Verifier
    events: Callable[[Any], Iterable[Event]]
    mode: Literal["sync", "async"] = "async"
    # For a system that cannot be asked for a record: what the body has of it is the record. Events then need `at`.
    payload_is_record: bool = False
    read: Callable[[bytes], Any] = from_json

    def told(self, body: bytes) -> list[Event]:
        """The events of a body, in its order. Raises Unreadable, also for what a function of the deployment raises."""
        try:
            events = list(self.events(self.read(body)))
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        if len(events) > EVENTS_MAX:
            raise Unreadable(f"It is about {len(events)} records; {EVENTS_MAX} at most are taken at once.")
        for each in events:
            if not 0 < len(each.key) <= KEY_CHARS_MAX or not each.key.isprintable():
                raise Unreadable("A record's key must be printable text.")
            if each.at is not None and not (each.at.tzinfo and YEAR_MIN <= each.at.year <= YEAR_MAX):
                raise Unreadable(f"It says that it happened at {each.at}, which has no zone or cannot be.")
            if self.payload_is_record and each.at is None:
                raise Unreadable("It does not say when this happened, so late arrivals could not be told.")
        return events


@dataclass(frozen=True)
class Where:
    """Where a JSON body says what: each a path such as `data.id`. Other kinds of events mean nothing here."""

    kinds: Mapping[str, str]  # what the body calls the event → the mapping
    kind: str = "type"
    key: str = "data.id"
    id: str = ""
    at: str = ""  # ISO 8601, or seconds since 1970
    each: str = ""  # the list of events; none: the body is one
    record: str = ""  # its values, for `Hook.payload_is_record`
    gone: frozenset[str] = frozenset()  # the kinds that tell of a deletion

    def __call__(self, body: Any) -> list[Event]:
        """Raises Unreadable where a path leads nowhere."""
        events = _at(body, self.each) if self.each else [body]
        if not isinstance(events, list):
            raise Unreadable(f"{self.each} is no list.")
        return [self._event(each) for each in events if _text(each, self.kind) in self.kinds]

    def _event(self, event: Any) -> Event:
        kind = _text(event, self.kind)
        values = _at(event, self.record) if self.record and kind not in self.gone else None
        if values is not None and not isinstance(values, dict):
            raise Unreadable(f"{self.record} is no record.")
        return Event(
            self.kinds[kind],
            _text(event, self.key),
            _text(event, self.id) if self.id else "",
            _moment(_at(event, self.at)) if self.at else None,
            values,
        )


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise Unreadable(f"The body has no {path}.")
        value = value[name]
    return value


def _text(value: Any, path: str) -> str:
    found = _at(value, path)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise Unreadable(f"{path} is neither text nor a whole number.")
    return str(found)


def _moment(value: Any) -> datetime:
    try:
        if isinstance(value, int | Decimal):
            return datetime.fromtimestamp(float(value), UTC)
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise Unreadable(f"{value!r} is no time: {error}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
