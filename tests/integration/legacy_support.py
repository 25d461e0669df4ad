"""A pre-existing system in memory that does all that real ones do, and dies or loses answers when told to."""

import datetime as dt
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from entities.models import Customer, Order, OrderLine, Product
from legacy.connector import Capabilities, Changed, Page, Record, Refused, Unreachable
from legacy.convert import By
from legacy.mapping import F, Rows
from legacy.mapping import Mapping as Declared
from legacy.models import Run
from legacy.runs import run
from legacy.systems import System, modules

T = TypeVar("T")
DAY = dt.date(2026, 11, 21)

CUSTOMER = Declared(
    "customer",
    Customer,
    "party",
    match="code",
    direction="both",
    fields=(F("code", "code", only="pull"), F("name", "name"), F("city", "city"), F("phone", "phone")),
)
PRODUCT = Declared("product", Product, "item", match="code", fields=(F("code", "code"), F("name", "name")))
ORDER = Declared(
    "order",
    Order,
    "sale",
    match="number",
    direction="both",
    fields=(
        F("number", "number", only="pull"),
        F("customer", "party", ref="customer"),
        F("status", "state", By(str, str), late=True),
        F("ordered_on", "day"),
        F("note", "note"),
    ),
    rows=Rows(
        "order_line",
        OrderLine,
        parent="order",
        place="lines",
        fields=(F("product", "item", ref="product"), F("quantity", "quantity"), F("unit_price", "price")),
    ),
)


CAPABILITIES = Capabilities(
    stamp="a whole number",
    paging="stamp",
    deletes="keys",
    locking="version",
    idempotency="marker",
    writes=frozenset({"create", "update", "delete"}),
)


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


def killed_at(connector: Any, call: int) -> Any:
    """The connector, whose user is killed in this call of `changes`, after the page was read; 0: in none."""
    real, calls = connector.changes, itertools.count(1)

    def changes(*arguments: Any) -> Page:
        page: Page = real(*arguments)
        if next(calls) == call:
            raise Killed
        return page

    connector.changes = changes
    return connector


class Ledger:
    """Records by source and key, each change stamped. Keys are numbers, as in most systems."""

    def __init__(self, page_records: int = 2, name: str = "ledger", **capabilities: Any) -> None:
        self.name = name
        self.capabilities = replace(CAPABILITIES, **capabilities)
        self.identity = "a test"
        self.removed: dict[tuple[str, str], int] = {}
        self.keeps: Callable[[dict[str, Any]], dict[str, Any]] = dict  # what it makes of what it is given
        self.listed: Callable[[str], Iterator[str]] = lambda source: iter(list(self.records[source]))
        self.records: dict[str, dict[str, dict[str, Any]]] = {"party": {}, "item": {}, "sale": {}}
        self.stamps: dict[tuple[str, str], int] = {}
        self.markers: dict[str, str] = {}
        self.marks_copied: dict[str, str] = {}  # by key, where people copied a record with its mark
        self.written: list[tuple[str, str]] = []  # what others asked it to write
        self.clock = 0
        self.page_records = page_records
        self.calls = 0
        self.before: Callable[[str, int], None] = lambda call, number: None
        self.after: Callable[[str, int], None] = lambda call, number: None
        self._ids = itertools.count(1)

    # What its own people do.

    def put(self, source: str, key: str | None = None, **values: Any) -> str:
        key = key or str(next(self._ids))
        self.clock += 1
        self.records[source][key] = {**self.records[source].get(key, {}), **values}
        self.stamps[source, key] = self.clock
        return key

    def remove(self, source: str, key: str) -> None:
        self.clock += 1
        del self.records[source][key]
        self.removed[source, key] = self.clock

    # legacy.connector.Connector

    def open(self) -> str:
        return self._call("open", lambda: self.identity)

    def close(self) -> None:
        pass

    def changes(self, source: str, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        def answer() -> Page:
            at = tuple(cursor.get("at", (0, 0)))
            found = sorted((self.stamps[source, key], int(key)) for key in self.records[source])
            found = [each for each in found if each >= at]  # the last one again: at least once
            page = found[: self.page_records]
            more = len(found) > self.page_records
            after = {"at": list(page[-1])} if page else dict(cursor)
            if more and page[-1] == at:
                after = {"at": list(found[self.page_records])}
            gone = [key for (of, key), stamp in self.removed.items() if of == source and stamp >= at[0]]
            shown = [key for key in gone if self.capabilities.deletes == "shown" and key not in self.records[source]]
            return Page([self._record(source, str(key)) for _, key in page], after, more, shown)

        return self._call(f"changes {source}", answer)

    def fetch(self, source: str, places: Collection[str], keys: Collection[str]) -> list[Record]:
        known = [key for key in keys if key in self.records[source]]
        return self._call("fetch", lambda: [self._record(source, key) for key in known])

    def keys(self, source: str) -> Iterator[str]:
        return self._call("keys", lambda: self.listed(source))

    def find(self, source: str, marker: str) -> str | None:
        key = self.markers.get(marker)
        return self._call("find", lambda: key if key in self.records[source] else None)

    def create(self, source: str, marker: str, values: Mapping[str, Any]) -> str:
        def act() -> str:
            if values.get("name") == "refuse me":
                raise Refused("We do not deal with those.")
            number = {"state": "draft", "number": f"S{len(self.written)}"}
            given: dict[str, Any] = number if source == "sale" else {"code": None}
            key = self.put(source, **self.keeps({**given, **self._with_ids(values)}))
            self.markers[marker] = key
            self.written.append(("create", key))
            return key

        return self._call("create", act)

    def update(self, source: str, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        def act() -> None:
            if self.stamps[source, record.key] != record.version:
                raise Changed("somebody was faster")
            self.put(source, record.key, **self.keeps(self._with_ids({place: values[place] for place in changed})))
            self.written.append(("update", record.key))

        self._call("update", act)

    def delete(self, source: str, record: Record) -> None:
        def act() -> None:
            if record.key in self.records[source] and self.stamps[source, record.key] != record.version:
                raise Changed("somebody was faster")
            if record.key in self.records[source]:
                self.remove(source, record.key)
            self.written.append(("delete", record.key))

        self._call("delete", act)

    def _with_ids(self, values: Mapping[str, Any]) -> dict[str, Any]:
        lines = [{**line, "id": line["id"] or str(next(self._ids))} for line in values.get("lines", [])]
        return {**values, "lines": lines} if "lines" in values else dict(values)

    def _record(self, source: str, key: str) -> Record:
        values = {"lines": [], **self.records[source][key]} if source == "sale" else self.records[source][key]
        marker = next((marker for marker, made in self.markers.items() if made == key), self.marks_copied.get(key, ""))
        return Record(key, dict(values), self.stamps[source, key], marker)

    def _call(self, name: str, act: Callable[[], T]) -> T:
        self.calls += 1
        self.before(name, self.calls)
        result = act()
        self.after(name, self.calls)
        return result

    # How a test runs it, and breaks it.

    def sync(self, *mappings: Declared, **options: Any) -> Run:
        self.calls = 0
        return run(self.system(*mappings), **options)

    def system(self, *mappings: Declared) -> System:
        return System(self.name, lambda: self, mappings or (CUSTOMER, PRODUCT, ORDER))

    def break_off(self, at: int, error: type[BaseException], answered: bool) -> None:
        """At call number `at`: `answered` False dies before it is done, True after it was done, the answer lost."""

        def breaks(call: str, number: int) -> None:
            if number == at:
                raise error(f"in {call}")

        self.mend()
        if answered:
            self.after = breaks
        else:
            self.before = breaks

    def mend(self) -> None:
        self.before = self.after = lambda call, number: None


def an_order(ledger: Ledger, **values: Any) -> str:
    """An order in the ledger, with all that it refers to."""
    party = next(iter(ledger.records["party"]), None) or ledger.put("party", code="ANA", name="Ana", city="Berlin")
    item = next(iter(ledger.records["item"]), None) or ledger.put("item", code="1", name="Chai")
    number = 1000 + 10 * ledger.clock
    lines = [{"id": str(number + i), "item": item, "quantity": i + 1, "price": "18"} for i in range(2)]
    order: dict[str, Any] = {"number": "10248", "party": party, "state": "draft", "day": DAY, "lines": lines}
    return ledger.put("sale", **order | values)


def down(ledger: Ledger) -> None:
    def breaks(call: str, number: int) -> None:
        raise Unreachable("It does not answer.")

    ledger.before = breaks


@contextmanager
def declared_systems(*systems: System) -> Iterator[None]:
    """The deployment is connected to these."""
    with mock.patch("legacy.systems.import_module", lambda name: SimpleNamespace(SYSTEMS=systems)):
        modules.cache_clear()
        yield
    modules.cache_clear()
