"""Tryton over its JSON-RPC: sessions, changes by stamp and id, writes that notice when another was faster."""

import base64
import datetime as dt
import json
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx

from legacy.connector import Capabilities, Changed, Misconfigured, Page, Record, Refused, Unreachable
from legacy.connectors.tryton_places import commands, fields_of, look, row_commands, spot, stamps, value_at

PAGE_RECORDS = 100  # of one answer: bounds the memory of both sides
TIMEOUT_SECONDS = 30
READ_TRIES_MAX = 4  # of a call that changes nothing; a write whose answer was lost is never simply sent again
WAIT_SECONDS_MAX = 30  # between two of them, whatever the other side asks for
OVERLAP_SECONDS = 60  # longer than Tryton's longest transaction: records are stamped before they are committed
KEYS_PER_CALL = 1_000
STAMPS = ("write_date", "create_date")

Values = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """Which records of which Tryton model a mapping is about, and what is special about them."""

    name: str
    only: tuple[Any, ...] = ()  # Tryton's own search clauses, all of which must hold
    touched_by: tuple[str, ...] = ()  # lists and records whose change is a change of this record, such as `addresses`
    moved_by: tuple[tuple[str, str], ...] = ()  # (model, its field that names us): the same, found from the other side
    marker: str = ""  # the place that keeps our id, so that a created record can be found again
    context: Callable[["Tryton"], Values] | None = None  # without which some fields are null
    rows: str = ""  # the list that is mapped as rows of the record
    rows_if: Callable[[Mapping[str, Any]], bool] = bool  # which of its records are
    before: Callable[["Tryton", Values, Collection[str]], Values] | None = None  # completes what is about to be written
    # (state, wanted state) → the buttons that lead there; the state is never written itself.
    buttons: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


class Tryton:
    capabilities = Capabilities(
        stamp="write_date, create_date where it is null; microseconds",
        clock="Tryton's own, in UTC",
        ties="records made in bulk share a stamp: read from the stamp on, ordered by id, and dropped when seen before",
        deletes="parties and products are deactivated and stay readable; deleted ones only by comparing keys",
        locking="_timestamp of the record and its lists, checked by Tryton in the write's transaction",
        idempotency="our id in a field of the record, searched for before each create",
    )

    def __init__(self, url: str, database: str, user: str, password: str, overlap_seconds: int = OVERLAP_SECONDS) -> None:
        if not (url and database and user):
            raise Misconfigured("Set LEGACY_URL, LEGACY_DATABASE, LEGACY_USER and LEGACY_PASSWORD.")
        self._database, self._user, self._password = database, user, password
        self._overlap = dt.timedelta(seconds=overlap_seconds)
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        self._session = ""
        self._context: Values = {}
        self._relations: dict[str, dict[str, str]] = {}

    # --- The interface of legacy.connector ----------------------------------------------------------------------------

    def open(self) -> str:
        answer = self._post("common.db.login", [self._user, {"password": self._password}], retry=True)
        self._session = base64.b64encode(f"{self._user}:{answer[0]}:{answer[1]}".encode()).decode()
        me = self.call("res.user", "get_preferences", True)
        if not me.get("company"):
            raise Misconfigured(f"Tryton's user {self._user} has no company, so it can neither see nor make sales.")
        self._context = {**me, "language": "en"}
        return f"{self._user} at {me.get('company.rec_name', me['company'])}"

    def close(self) -> None:
        self._http.close()

    def changes(self, source: Model, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """A pass over all that changed since `since`, by id, so that no edit meanwhile shifts its pages.

        What changes during the pass is stamped later than `until`, the newest stamp at its start, where the next pass
        begins, less the overlap.
        """
        since = dt.datetime.fromisoformat(cursor["since"]) if cursor.get("since") else None
        until = cursor.get("until") or self._newest(source)
        after = cursor.get("after", 0)
        domain = [*self._domain(source), ["id", ">", after]]
        if since:
            domain.append(self._touched(source, since - self._overlap))
        raws = self._read(source, places, domain, PAGE_RECORDS)
        if len(raws) < PAGE_RECORDS:
            return Page(raws, {"since": until}, more=False)
        return Page(raws, {"since": cursor.get("since"), "until": until, "after": int(raws[-1].key)}, more=True)

    def fetch(self, source: Model, places: Collection[str], keys: Collection[str]) -> list[Record]:
        return self._read(source, places, [*self._domain(source), ["id", "in", sorted(map(int, keys))]], None)

    def keys(self, source: Model) -> Iterator[str]:
        after = 0
        while found := self.search(source.name, [*self._domain(source), ["id", ">", after]], limit=KEYS_PER_CALL):
            yield from map(str, found)
            after = found[-1]

    def find(self, source: Model, marker: str) -> str | None:
        at = spot(source.marker)
        path = f"{at.among}.{at.leaf}" if at.among else at.leaf
        found = self.search(source.name, [*self._domain(source), [path, "=", marker]], limit=2)
        if len(found) > 1:
            raise Refused(f"Tryton has several records of {source.name} with our id {marker}.")
        return str(found[0]) if found else None

    def create(self, source: Model, marker: str, values: Mapping[str, Any]) -> str:
        made = {**values, source.marker: marker}
        if source.before:
            made = source.before(self, made, made.keys())
        return str(self.call(source.name, "create", [self._commands(source, made, None)])[0])

    def update(self, source: Model, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        wanted = {place: value for place, value in values.items() if place in changed}
        if source.before:
            wanted = source.before(self, {**values, "id": record.key}, changed)
        state = wanted.pop("state", None) if source.buttons else None
        if wanted:
            context = {"_timestamp": stamps(record.version, source.name, self.relation)}
            self.call(source.name, "write", [int(record.key)], self._commands(source, wanted, record), context=context)
        if state is not None and state != record.values["state"]:
            self._press(source, record, str(state))

    # --- What the mappings' own functions use too ---------------------------------------------------------------------

    def call(self, model: str, method: str, *arguments: Any, context: Values | None = None) -> Any:
        """One call of a model's method. Raises Refused with Tryton's words, or Changed."""
        retry = method in {"search", "search_read", "read", "fields_get", "get_preferences"}
        return self._post(f"model.{model}.{method}", [*arguments, {**self._context, **(context or {})}], retry)

    def search(self, model: str, domain: list[Any], limit: int | None = None) -> list[int]:
        return list(self.call(model, "search", domain, 0, limit, [["id", "ASC"]]))

    def relation(self, model: str, name: str) -> str:
        """The model of what a field of a model refers to; nothing for a plain field."""
        if model not in self._relations:
            described = self.call(model, "fields_get", [])
            self._relations[model] = {name: about.get("relation") or "" for name, about in described.items()}
        return self._relations[model].get(name, "")

    def named(self, model: str, name: str, value: Any) -> int | None:
        """The id of the one record whose field `name` is `value`. Raises Refused for none, or several."""
        if value in (None, ""):
            return None
        found = self.search(model, [[name, "=", value]], limit=2)
        if len(found) != 1:
            raise Refused(f"Tryton has {'no' if not found else 'more than one'} {model} whose {name} is {value!r}.")
        return found[0]

    # --- Requests and answers -----------------------------------------------------------------------------------------

    def _domain(self, source: Model) -> list[Any]:
        """All records of the source, those that Tryton's lists leave out included."""
        archived = [["active", "in", [True, False]]] if self._has(source.name, "active") else []
        return [*source.only, *archived]

    def _has(self, model: str, name: str) -> bool:
        self.relation(model, name)
        return name in self._relations[model]

    def _newest(self, source: Model) -> str | None:
        """The newest stamp in the model now: by Tryton's clock, whatever ours says."""
        found: list[dt.datetime] = []
        for name in STAMPS:
            newest = self.call(source.name, "search_read", [[name, "!=", None]], 0, 1, [[name, "DESC"]], [name])
            found += [row[name] for row in newest]
        return max(found).isoformat() if found else None

    def _touched(self, source: Model, since: dt.datetime) -> list[Any]:
        # A record that was never updated has no write_date; one that was has a create_date that says nothing new.
        stamped = [f"{path}{name}" for path in ("", *(f"{path}." for path in source.touched_by)) for name in STAMPS]
        clauses: list[Any] = [[name, ">=", since] for name in stamped]
        for model, name in source.moved_by:
            moved = self.call(model, "search_read", [["OR", *([each, ">=", since] for each in STAMPS)]], 0, None, None, [name])
            clauses.append(["id", "in", sorted({row[name] for row in moved})])
        return ["OR", *clauses]

    def _read(self, source: Model, places: Collection[str], domain: list[Any], limit: int | None) -> list[Record]:
        context = source.context(self) if source.context else None
        names = fields_of([*places, "id"], source.rows)
        raws = self.call(source.name, "search_read", domain, 0, limit, [["id", "ASC"]], names, context=context)
        return [self._record(source, places, raw) for raw in raws]

    def _record(self, source: Model, places: Collection[str], raw: Values) -> Record:
        rows = f"{source.rows}." if source.rows else "\0"
        values: Values = {place: value_at(raw, place) for place in places if not place.startswith(rows)}
        if source.rows:
            leaves = ["id", *(place.removeprefix(rows) for place in places if place.startswith(rows))]
            kept = filter(source.rows_if, raw.get(rows) or [])
            values[source.rows] = [{leaf: look(row, leaf) for leaf in leaves} for row in kept]
        return Record(str(raw["id"]), values, raw)

    def _commands(self, source: Model, values: Values, record: Record | None) -> Values:
        rows = values.pop(source.rows, None) if source.rows else None
        written = commands(values, record.version if record else None, lambda *at: self._resolve(source.name, *at))
        if rows is not None:
            there = {str(row["id"]): row for row in record.values[source.rows]} if record else {}
            made = row_commands(rows, there, lambda _, *at: self._resolve(source.name, source.rows, *at))
            written[source.rows] = [*written.get(source.rows, []), *made]
        return written

    def _resolve(self, model: str, path: str, name: str, value: Any) -> tuple[str, Any]:
        for step in path.split(".") if path else []:
            model = self.relation(model, step)
        first, _, named_by = name.partition(".")
        return (first, self.named(self.relation(model, first), named_by, value)) if named_by else (first, value)

    def _press(self, source: Model, record: Record, wanted: str) -> None:
        state = str(record.values["state"])
        if (state, wanted) not in source.buttons:
            raise Refused(f"Tryton has no way from {state} to {wanted}: its own people decide that.")
        for button in source.buttons[state, wanted]:
            self.call(source.name, button, [int(record.key)])

    def _post(self, method: str, params: list[Any], retry: bool) -> Any:
        body = json.dumps({"id": 1, "method": method, "params": params}, default=_encode)
        headers = {"Content-Type": "application/json"}
        if self._session:
            headers["Authorization"] = f"Session {self._session}"
        for attempt in range(1, READ_TRIES_MAX + 1):
            wait = random.uniform(0.5, 1) * 2**attempt / 4
            try:
                response = self._http.post(f"/{self._database}/rpc/", content=body, headers=headers)
                if response.status_code not in {429, 502, 503, 504}:
                    return self._answer(method, response)
                reason = f"{response.status_code} {response.reason_phrase}"
                asked = response.headers.get("Retry-After", "")
                wait = min(float(asked), WAIT_SECONDS_MAX) if asked.isdigit() else wait
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            if not retry or attempt == READ_TRIES_MAX:
                break
            time.sleep(wait)
        raise Unreachable(f"Tryton at {self._http.base_url} does not answer: {reason}")

    def _answer(self, method: str, response: httpx.Response) -> Any:
        if response.status_code in {401, 403}:
            raise Misconfigured(f"Tryton does not let {self._user} in ({method}: {response.status_code}).")
        if response.status_code == 404:
            raise Misconfigured(f"Tryton has no database {self._database!r} at {self._http.base_url}.")
        if response.status_code != 200:
            raise Unreachable(f"Tryton answered {method} with {response.status_code}.")
        answer = json.loads(response.text, object_hook=_decode)
        if "error" not in answer:
            return answer["result"]
        kind, *detail = answer["error"]  # business errors come with status 200
        if kind == "ConcurrencyException":
            raise Changed(f"{method}: {detail}")
        if kind in {"UserError", "UserWarning"}:
            raise Refused(" ".join(str(part) for part in detail[0] if part and not isinstance(part, list)))
        raise Refused(f"{method} failed in Tryton: {kind}")


def _encode(value: Any) -> Any:
    match value:
        case dt.datetime():
            names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
            return {"__class__": "datetime", **{name: getattr(value, name) for name in names}}
        case dt.date():
            return {"__class__": "date", "year": value.year, "month": value.month, "day": value.day}
        case Decimal():
            return {"__class__": "Decimal", "decimal": str(value)}
    raise TypeError(f"{value!r} has no form in JSON-RPC")


def _decode(raw: Values) -> Any:
    match raw.get("__class__"):
        case "datetime":
            return dt.datetime(*(raw[name] for name in ("year", "month", "day", "hour", "minute", "second", "microsecond")))
        case "date":
            return dt.date(raw["year"], raw["month"], raw["day"])
        case "Decimal":
            return Decimal(raw["decimal"])
        case "timedelta":
            return dt.timedelta(seconds=raw["seconds"])
    return raw
