"""Tryton as a pre-existing system: changes by stamp and id, and writes that notice when another was faster."""

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

from legacy.connector import Capabilities, Page, Record, Refused
from legacy.connectors.tryton_places import commands, fields_of, look, marker_at, row_commands, spot, stamps, value_at
from legacy.connectors.tryton_rpc import HIDDEN, Session, Values

PAGE_RECORDS = 100  # of one answer: bounds the memory of both sides
OVERLAP_SECONDS = 60  # longer than Tryton's longest transaction: records are stamped before they are committed
KEYS_PER_CALL = 1_000
STAMPS = ("write_date", "create_date")


@dataclass(frozen=True)
class Model:
    """Which records of which Tryton model a mapping is about, and what is special about them."""

    name: str
    only: tuple[Any, ...] = ()  # Tryton's own search clauses, all of which must hold
    touched_by: tuple[str, ...] = ()  # lists and records whose change is a change of this record, such as `addresses`
    moved_by: tuple[tuple[str, str], ...] = ()  # (model, its field that names us): the same, found from the other side
    marker: str = ""  # the place that keeps our id, so that a created record can be found again
    context: Callable[[Session], Values] | None = None  # without which some fields are null
    rows: str = ""  # the list that is mapped as rows of the record
    rows_if: Callable[[Mapping[str, Any]], bool] = bool  # which of its records are
    # (Tryton, all values, places to write, key or None) → what is about to be written, completed.
    before: Callable[[Session, Values, Collection[str], str | None], Values] | None = None
    # (state, wanted state) → the buttons that lead there; the state is never written itself.
    buttons: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


class Tryton:
    capabilities = Capabilities(
        stamp="write_date, create_date where it is null",
        precision_seconds=1e-6,
        clock="Tryton's own, in UTC",
        ties="records made in bulk share a stamp: read from the stamp on, ordered by id, and dropped when seen before",
        paging="key",
        hidden="active_test False in the context",
        deletes="keys",
        locking="version",  # _timestamp of the record and its lists, checked by Tryton in the write's transaction
        idempotency="marker",
        numeric_keys=True,
        whoami="res.user.get_preferences",
        ahead=True,
        writes=frozenset({"create", "update", "delete"}),
    )

    def __init__(
        self, url: str, database: str, user: str, password: str, overlap_seconds: int = OVERLAP_SECONDS
    ) -> None:
        self.session = Session(url, database, user, password)
        self._overlap = dt.timedelta(seconds=overlap_seconds)

    def open(self) -> str:
        return self.session.open()

    def close(self) -> None:
        self.session.close()

    def changes(self, source: Model, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """A pass over all that changed since the cursor, by id, so that no edit meanwhile shifts its pages.

        `since` is the newest stamp at the start of the pass before, `seen` when we first saw it as the newest. Records
        are stamped before they are committed, so a pass begins `overlap` before `since`, and reads again what it has
        seen. Once a pass ran a whole overlap after `seen`, nothing stamped up to `since` can still be on its way: from
        then on (`settled`) only later stamps are read, and a quiet Tryton is asked for nothing.
        """
        now = time.time()
        newest = cursor.get("newest") or self._newest(source)
        domain = [*source.only, ["id", ">", cursor.get("after", 0)]]
        if cursor.get("since"):
            since = dt.datetime.fromisoformat(cursor["since"])
            settled = cursor["settled"]
            domain.append(self._touched(source, ">" if settled else ">=", since if settled else since - self._overlap))
        records = self._read(source, places, domain, PAGE_RECORDS)
        if len(records) == PAGE_RECORDS:
            began = {"newest": newest, "began": cursor.get("began", now), "after": int(records[-1].key)}
            return Page(records, {**cursor, **began}, more=True)
        began_at = cursor.get("began", now)
        seen = cursor.get("seen", began_at) if newest == cursor.get("since") else began_at
        settled = began_at - seen >= self._overlap.total_seconds()
        return Page(records, {"since": newest, "seen": seen, "settled": settled}, more=False)

    def fetch(self, source: Model, places: Collection[str], keys: Collection[str]) -> list[Record]:
        return self._read(source, places, [*source.only, ["id", "in", sorted(map(int, keys))]], None)

    def keys(self, source: Model) -> Iterator[str]:
        domain, after = source.only, 0
        while found := self.session.search(source.name, [*domain, ["id", ">", after]], KEYS_PER_CALL, hidden=True):
            yield from map(str, found)
            after = found[-1]

    def find(self, source: Model, marker: str) -> str | None:
        if not source.marker:
            return None
        at = spot(source.marker)
        path = f"{at.among}.{at.leaf}" if at.among else at.leaf
        found = self.session.search(source.name, [*source.only, [path, "=", marker]], limit=2, hidden=True)
        if len(found) > 1:
            raise Refused(f"Tryton has several records of {source.name} with our id {marker}.")
        return str(found[0]) if found else None

    def create(self, source: Model, marker: str, values: Mapping[str, Any]) -> str:
        made = {**values, source.marker: marker}
        if source.before:
            made = source.before(self.session, made, made.keys(), None)
        return str(self.session.call(source.name, "create", [self._commands(source, made, None)])[0])

    def update(self, source: Model, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        wanted = {place: value for place, value in values.items() if place in changed}
        if source.before:
            wanted = source.before(self.session, dict(values), changed, record.key)
        state = wanted.pop("state", None) if source.buttons else None
        if wanted:
            context = {"_timestamp": stamps(record.version, source.name, self.session.relation)}
            content = self._commands(source, wanted, record)
            self.session.call(source.name, "write", [int(record.key)], content, context=context)
        if state is not None and state != record.values["state"]:
            self._press(source, record, str(state))

    def delete(self, source: Model, record: Record) -> None:
        context = {"_timestamp": stamps(record.version, source.name, self.session.relation)}
        self.session.call(source.name, "delete", [int(record.key)], context=context)

    def sample_stamps(self, source: Model, limit: int) -> list[dt.datetime | None]:
        """When the newest records changed, as `legacy.probe` asks."""
        newest = [[*source.only], 0, limit, [["id", "DESC"]], [*STAMPS]]
        found = self.session.call(source.name, "search_read", *newest, context=HIDDEN)
        stamps = (next((row[name] for name in STAMPS if row[name]), None) for row in found)
        return [stamp and stamp.replace(tzinfo=dt.UTC) for stamp in stamps]

    def their_clock(self) -> dt.datetime | None:
        return self.session.clock()

    def _newest(self, source: Model) -> str | None:
        """The newest stamp now among all that makes a record change: by Tryton's clock, whatever ours says."""
        models = {source.name, *(model for model, _ in source.moved_by)}
        models |= {reduce(self.session.relation, path.split("."), source.name) for path in source.touched_by}
        found: list[dt.datetime] = []
        for model in models:
            for name in STAMPS:
                newest = [[[name, "!=", None]], 0, 1, [[name, "DESC"]], [name]]
                found += [row[name] for row in self.session.call(model, "search_read", *newest, context=HIDDEN)]
        return max(found).isoformat() if found else None

    def _touched(self, source: Model, after: str, since: dt.datetime) -> list[Any]:
        # A record that was never updated has no write_date; one that was has a create_date that says nothing new.
        paths = ("", *(f"{path}." for path in source.touched_by))
        clauses: list[Any] = [[path + name, after, since] for path in paths for name in STAMPS]
        for model, name in source.moved_by:
            clauses.append(["id", "in", sorted(self._moved(model, name, [[stamp, after, since] for stamp in STAMPS]))])
        return ["OR", *clauses]

    def _moved(self, model: str, name: str, changed: list[Any]) -> set[int]:
        found: set[int] = set()
        after = 0
        while True:
            rows = self.session.call(
                model, "search_read", [["id", ">", after], ["OR", *changed]], 0, KEYS_PER_CALL, [["id", "ASC"]], [name]
            )
            found |= {row[name] for row in rows}
            if len(rows) < KEYS_PER_CALL:
                return found
            after = rows[-1]["id"]

    def _read(self, source: Model, places: Collection[str], domain: list[Any], limit: int | None) -> list[Record]:
        # Found with what Tryton's lists hide, but read without: of a record's addresses only the current ones count.
        ids = self.session.search(source.name, domain, limit, hidden=True)
        context = source.context(self.session) if source.context and ids else None
        names = fields_of([*places, "id", *filter(None, [source.marker])], source.rows)
        raws = self.session.call(source.name, "read", ids, names, context=context) if ids else []
        return [self._record(source, places, raw) for raw in raws]

    def _record(self, source: Model, places: Collection[str], raw: Values) -> Record:
        rows = f"{source.rows}." if source.rows else "\0"
        values: Values = {place: value_at(raw, place) for place in places if not place.startswith(rows)}
        if source.rows:
            leaves = ["id", *(place.removeprefix(rows) for place in places if place.startswith(rows))]
            kept = filter(source.rows_if, raw.get(rows) or [])
            values[source.rows] = [{leaf: look(row, leaf) for leaf in leaves} for row in kept]
        return Record(str(raw["id"]), values, raw, marker_at(raw, source.marker) if source.marker else "")

    def _commands(self, source: Model, values: Values, record: Record | None) -> Values:
        resolve = partial(self.session.resolve, source.name)
        rows = values.pop(source.rows, None) if source.rows else None
        written = commands(values, record.version if record else None, resolve)
        if rows is not None:
            there = {str(row["id"]): row for row in record.values[source.rows]} if record else {}
            made = row_commands(rows, there, partial(resolve, source.rows))
            written[source.rows] = [*written.get(source.rows, []), *made]
        return written

    def _press(self, source: Model, record: Record, wanted: str) -> None:
        state = str(record.values["state"])
        if (state, wanted) not in source.buttons:
            raise Refused(f"Tryton has no way from {state} to {wanted}: its own people decide that.")
        for button in source.buttons[state, wanted]:
            self.session.call(source.name, button, [int(record.key)])
