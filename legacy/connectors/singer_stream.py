"""One stream of a Singer tap: how it is selected, how far it was read, and its messages as pages."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from json import loads
from time import time
from typing import Any, Literal

import msgspec

from legacy.connector import Misconfigured, Page, Record, Unreachable
from legacy.connectors.json_places import key_of, values_at
from legacy.connectors.singer_tap import Tap

PAGE_RECORDS = 500  # from here on a STATE closes the page
PAGE_RECORDS_MAX = 2_000  # here it is closed without one, and
PAGE_BYTES_MAX = 8_000_000  # here too; what came since the last STATE is then read again if this process dies
OVERLAP_SECONDS = 60  # longer than the longest transaction of the system: records are stamped before they are committed
SHOWN_BYTES = 200  # of what is no message
DELETED_AT = "_sdc_deleted_at"  # by convention: when the record was deleted

Message = dict[str, Any]
_message = msgspec.json.Decoder(Message, float_hook=Decimal)


@dataclass(frozen=True)
class Stream:
    """Which stream of the tap a mapping is about."""

    name: str  # as the catalog has it: `tap_stream_id`, or else `stream`
    key: tuple[str, ...] = ()  # the properties that tell records apart; none: what the tap says they are
    method: Literal["", "FULL_TABLE", "INCREMENTAL", "LOG_BASED"] = ""  # "": what the catalog says
    replication_key: str = ""  # for INCREMENTAL, where the catalog does not say: what tells when a record changed
    overlap_seconds: float = OVERLAP_SECONDS  # of INCREMENTAL


@dataclass
class Cursor:
    """Where a pass begins, and how far the one at work is."""

    page: int = 0  # of the pass at work; 0: it is over
    began: float = 0  # when the pass at work, or the last one, did: seconds since 1970
    state: Any = None  # of the pass at work: the last one that the tap gave
    version: int | None = None  # of the table, where the tap has ACTIVATE_VERSION
    ends: list[tuple[float, Any]] = field(default_factory=list)  # (when, state) at the end of passes, oldest first

    def since(self, overlap_seconds: float) -> Any:
        """The state to begin a pass with: one so old that all that was stamped before it had been committed when the
        last pass read; none: from the beginning."""
        old = [state for when, state in self.ends if not overlap_seconds or when <= self.began - overlap_seconds]
        return old[-1] if old else None

    def end(self, now: float, overlap_seconds: float) -> None:
        """Note the end of a pass, and forget what no pass will begin with."""
        if self.state is not None and self._is_news(now, overlap_seconds):
            self.ends.append((now, self.state))
        while len(self.ends) > 1 and self.ends[1][0] <= self.began - overlap_seconds:
            self.ends.pop(0)
        self.page, self.state = 0, None

    def plain(self) -> dict[str, Any]:
        """As it comes back from the database."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found

    def _is_news(self, now: float, overlap_seconds: float) -> bool:
        # However often runs are, a dozen states are enough: to begin with an older one only reads more again.
        if not self.ends:
            return True
        when, state = self.ends[-1]
        return bool(state != self.state and now - when >= overlap_seconds / 10)


def selected(
    catalog: Mapping[str, Any], source: Stream, places: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The catalog with this stream alone selected, and of it what is mapped; its entry; its replication method.

    Raises Misconfigured where the tap has no such stream, or the stream lacks a place.
    """
    mine = deepcopy(dict(catalog))
    streams: list[dict[str, Any]] = mine["streams"]
    found = [each for each in streams if source.name in (each.get("tap_stream_id"), each.get("stream"))]
    if not found:
        names = ", ".join(sorted(str(each.get("tap_stream_id")) for each in streams)) or "none"
        raise Misconfigured(f"The tap has no stream {source.name!r}; it has: {names}.")
    entry = next((each for each in found if each.get("tap_stream_id") == source.name), found[0])
    for each in streams:
        _select(each, each is entry)
    wanted = _wanted(source, places, entry, entry.get("schema") or {})
    for each in entry["metadata"]:
        if each["breadcrumb"] and each["metadata"].get("inclusion") != "automatic":
            each["metadata"]["selected"] = each["breadcrumb"][1] in wanted
    about = next(each["metadata"] for each in entry["metadata"] if not each["breadcrumb"])
    if source.method:
        about["replication-method"] = entry["replication_method"] = source.method
    if source.replication_key:
        about["replication-key"] = entry["replication_key"] = source.replication_key
    methods = (about.get("replication-method"), about.get("forced-replication-method"), entry.get("replication_method"))
    return mine, entry, str(next(filter(None, methods), ""))


def _select(entry: dict[str, Any], yes: bool) -> None:
    entry["selected"] = yes  # where taps looked before there was metadata
    metadata = entry.setdefault("metadata", [])
    if not any(not each["breadcrumb"] for each in metadata):
        metadata.append({"breadcrumb": [], "metadata": {}})
    for each in metadata:
        if not each["breadcrumb"]:
            each["metadata"]["selected"] = yes


def _wanted(source: Stream, places: tuple[str, ...], entry: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    """The properties that the mapping needs. Raises Misconfigured for one that a schema lacks."""
    properties = schema.get("properties")
    needed = {place if place in (properties or ()) else place.split(".")[0] for place in places}
    needed |= {*source.key, *filter(None, [source.replication_key or entry.get("replication_key")])}
    if properties and (missing := sorted(needed - properties.keys())):
        raise Misconfigured(
            f"The tap's stream {source.name} has no {', '.join(missing)} (any more); it has: {', '.join(properties)}. "
            "Mend the mapping."
        )
    return needed | {DELETED_AT}


class Reading:
    """One pass over a stream."""

    def __init__(
        self,
        source: Stream,
        entry: Mapping[str, Any],
        places: tuple[str, ...],
        method: str,
        cursor: Cursor,
        overlap: float,
    ) -> None:
        self._source, self._entry, self._places = source, entry, places
        self._full, self._cursor, self._overlap = method == "FULL_TABLE", cursor, overlap
        self._names = {entry.get("stream"), entry.get("tap_stream_id")}
        self._key: tuple[str, ...] = ()
        # From the beginning, a version is told as a whole; from a state on, only one that is new.
        self._known_version = None if cursor.state is None else cursor.version
        self._activated = False
        self._clear()

    def pages(self, tap: Tap) -> Iterator[Page]:
        """Raises Unreachable or Misconfigured, after a page of what was told before."""
        try:
            for line in tap.lines():
                state = self._take(tap, line)
                count = len(self._records) + len(self._gone)
                if count >= (PAGE_RECORDS if state else PAGE_RECORDS_MAX) or self._bytes >= PAGE_BYTES_MAX:
                    yield self._page(more=True)
        except (Unreachable, Misconfigured):
            if self._records or self._gone:
                yield self._page(more=True)
            raise
        self._cursor.end(time(), self._overlap)
        new = self._activated and self._cursor.version != self._known_version
        yield self._page(more=False, whole=self._full or new)

    def _page(self, more: bool, whole: bool = False) -> Page:
        self._cursor.page += more
        page = Page(list(self._records.values()), self._cursor.plain(), more, list(self._gone), whole)
        self._clear()
        return page

    def _clear(self) -> None:
        self._records: dict[str, Record] = {}
        self._gone: dict[str, None] = {}
        self._bytes = 0

    def _take(self, tap: Tap, line: bytes) -> bool:
        """Take one message in; whether it was a STATE."""
        if not line.strip():
            return False
        try:
            message = _message.decode(line)
            kind = message["type"]
        except (msgspec.MsgspecError, KeyError, ValueError):
            shown = tap.masked(line[:SHOWN_BYTES].decode(errors="replace"))
            raise Misconfigured(f"What the tap {tap.name} prints is no message of Singer: {shown}") from None
        self._bytes += len(line)
        match kind:
            case "STATE":
                if not self._full:
                    self._cursor.state = loads(line)["value"]
                return True
            case "BATCH":
                raise Misconfigured(
                    f"The tap {tap.name} writes batches into files: turn that off in its configuration."
                )
            case "SCHEMA" if message.get("stream") in self._names:
                self._describe(message)
            case "RECORD" if message.get("stream") in self._names:
                self._record(message)
            case "ACTIVATE_VERSION" if message.get("stream") in self._names:
                self._activated, self._cursor.version = True, message["version"]
        return False

    def _describe(self, message: Message) -> None:
        _wanted(self._source, self._places, {}, message.get("schema") or {})
        self._key = self._source.key or tuple(message.get("key_properties") or ())
        if not self._key:
            raise Misconfigured(f"The tap says no key of its stream {self._source.name}: give Stream one.")

    def _record(self, message: Message) -> None:
        if not self._key:
            raise Misconfigured(f"The tap tells records of {self._source.name} before their SCHEMA: it is broken.")
        values = message["record"]
        try:
            key = key_of(values, self._key)
        except ValueError as error:
            raise Misconfigured(
                f"A record of the tap's stream {self._source.name} cannot be told apart: {error}."
            ) from None
        if message.get("version") is not None:
            self._cursor.version = message["version"]
        before = self._records.pop(key, None)
        self._gone.pop(key, None)
        if values.get(DELETED_AT):
            self._gone[key] = None
        else:
            found = values_at(values, self._places)
            self._records[key] = Record(key, {**before.values, **found} if before else found)
