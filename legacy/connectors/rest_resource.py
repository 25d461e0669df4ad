"""What a mapping says about one kind of record of a JSON API: where it is listed, paged, stamped, written."""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from legacy.connector import Capabilities, Misconfigured, Record, Write, marker_in
from legacy.connectors.rest_paging import Paging, Whole
from legacy.connectors.rest_places import ABSENT, Raw, steps, value_at, values_at

OVERLAP_SECONDS = 60  # longer than their longest transaction: records are stamped before they are committed
Query = Mapping[str, str]


class Version(NamedTuple):
    """What an update needs of the record as it was read."""

    raw: Raw
    etag: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Resource:
    """Places are those of `rest_places`; paths follow the API's address; queries are parameters by name."""

    path: str
    key: str = "id"  # the place of a record's key
    numeric_keys: bool = False  # whether others refer to it by a number, and not by a text
    records: str = ""  # the place of the list in an answer; "": the answer is the list
    one: str = ""  # the path of one record, `/customers/{key}`; without it nothing is updated or deleted
    record: str = ""  # the place of the record in the answer to that, and to a create
    paging: Paging = field(default_factory=Whole)
    query: Query = field(default_factory=dict)  # sent with every list: a filter, an order by an unchanging key
    hidden: Query = field(default_factory=dict)  # the same, to see what is archived or closed
    only: Mapping[str, Any] = field(default_factory=dict)  # value by place of the records that it is about
    stamp: tuple[str, ...] = ()  # places; the first that is not null tells when a record changed
    since: tuple[str, ...] = ()  # query parameters for "changed since": each is asked by itself, in this order
    since_format: Literal["iso", "date", "seconds", "milliseconds"] = "iso"  # numbers are since 1970
    newest: Query = field(default_factory=dict)  # shows the newest record first; without it, a pass is read again once
    zone: str = "UTC"  # of stamps that do not say theirs, and of what `since` is given
    precision_seconds: float = 1
    overlap_seconds: int = OVERLAP_SECONDS
    gone: str = ""  # the place that is true in a record that was deleted
    rows: str = ""  # the place of the list that is mapped as rows of the record, each with its `id`
    error: str = ""  # the place of what is wrong in an answer with status 200
    marker: str = ""  # the place that keeps our id, so that a created record can be found again
    find_by: str = ""  # the query parameter that finds by it; without it, the whole list is looked through
    etag: bool = False  # they give a strong ETag for one record and refuse a write whose If-Match is another
    idempotency_header: str = ""  # such as `Idempotency-Key`
    replayed_header: str = "Idempotent-Replayed"  # says that an answer was stored for the key
    update: Literal["PATCH", "PUT"] = "PATCH"  # the changed places, or all that the record has
    writes: frozenset[Write] = frozenset({"create", "update", "delete"})

    def __post_init__(self) -> None:
        named = [self.records, self.record, self.gone, self.rows, self.error, self.marker, self.key, *self.stamp]
        try:
            for place in filter(None, (*named, *self.only)):
                steps(place)
            ZoneInfo(self.zone)
        except (ValueError, KeyError) as error:
            raise Misconfigured(f"Resource {self.path}: {error}.") from None
        if self.since and not self.stamp:
            raise Misconfigured(f"Resource {self.path}: since= needs stamp=, the place that it is about.")
        if self.overlap_seconds < 1:
            raise Misconfigured(
                f"Resource {self.path}: overlap_seconds must be 1 or more: stamps may be whole seconds."
            )
        if self.one and "{key}" not in self.one:
            raise Misconfigured(f"Resource {self.path}: one= must have {{key}} in it.")

    @property
    def allowed(self) -> frozenset[Write]:
        return self.writes if self.one else self.writes - {"update", "delete"}

    def at(self, key: str) -> str:
        return self.one.replace("{key}", quote(key, safe=""))

    def key_of(self, raw: Any) -> str:
        """Raises Misconfigured for what is no record."""
        found = value_at(raw, self.key) if isinstance(raw, dict) else ABSENT
        if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
            raise Misconfigured(f"Resource {self.path}: what it answers has no {self.key!r}, or no key there.")
        return str(found)

    def belongs(self, raw: Raw) -> bool:
        return all(value_at(raw, place) == value for place, value in self.only.items())

    def is_gone(self, raw: Raw) -> bool:
        return bool(self.gone) and value_at(raw, self.gone) not in (ABSENT, None, False, 0, "")

    def known(self, raw: Raw, places: Collection[str], etag: str = "") -> Record:
        marker = value_at(raw, self.marker) if self.marker else ""
        values = values_at(raw, places, self.rows)
        return Record(self.key_of(raw), values, Version(raw, etag, tuple(places)), marker_in(marker))

    def stamp_of(self, raw: Raw) -> dt.datetime | None:
        """When it changed, by their clock. Raises Misconfigured for what is no time."""
        found = next((value for place in self.stamp if (value := value_at(raw, place)) not in (ABSENT, None, "")), None)
        if found is None:
            return None
        try:
            if isinstance(found, str):
                at = dt.datetime.fromisoformat(found)
                return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(self.zone))).astimezone(dt.UTC)
            seconds = float(found) / (1000 if self.since_format == "milliseconds" else 1)
            return dt.datetime.fromtimestamp(seconds, dt.UTC)
        except (ValueError, TypeError, OverflowError, OSError):
            raise Misconfigured(f"Resource {self.path}: {found!r} is no time to say when a record changed.") from None

    def since_text(self, since: dt.datetime) -> str:
        """As the API takes it: whole seconds, rounded down, since many cut off what is behind the point."""
        local = since.astimezone(ZoneInfo(self.zone)).replace(microsecond=0)
        match self.since_format:
            case "iso":
                return local.isoformat().replace("+00:00", "Z")
            case "date":
                return local.date().isoformat()
            case "seconds":
                return str(int(local.timestamp()))
        return str(int(local.timestamp()) * 1000)

    def capabilities(self, whoami: str) -> Capabilities:
        return Capabilities(
            stamp=", else ".join(self.stamp) if self.since else "",
            precision_seconds=self.precision_seconds if self.since else 0.0,
            clock=f"theirs; where it does not say its zone, {self.zone}" if self.since else "",
            ties=f"read again from {self.overlap_seconds} s before the newest stamp, that one included",
            paging=self.paging.kind,
            hidden=", ".join(f"{name}={value}" for name, value in self.hidden.items()),
            deletes="shown" if self.gone else "keys" if self.since else "pass",
            locking="version" if self.etag else "compare",
            idempotency="marker" if self.marker else "key" if self.idempotency_header else "none",
            whoami=whoami,
            numeric_keys=self.numeric_keys,
            ahead=True,
            writes=self.allowed,
        )
