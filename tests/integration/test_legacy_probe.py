"""`legacy_probe` finds where a connector's declaration is wrong, by asking the system itself."""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from legacy.connector import Capabilities, Record
from legacy.probe import Finding, probe
from tests.integration.legacy_support import CUSTOMER, PRODUCT, Ledger

NOW = datetime(2026, 11, 21, 9, 30, 15, 250_000, tzinfo=UTC)


class Liar(Ledger):
    """A ledger that does other than it says."""

    def __init__(self, lie: str = "") -> None:
        super().__init__()
        self.lie = lie
        for number in range(3):
            self.put("party", code=f"C{number}", name=f"Customer {number}", city="Berlin", phone="1")

    def fetch(self, source: str, places: Collection[str], keys: Collection[str]) -> list[Record]:
        found = super().fetch(source, places, keys)
        if self.lie == "fetch shows less":
            return [Record(r.key, {**r.values, "city": None}, r.version) for r in found]
        return [] if self.lie == "fetch finds none" else found

    def keys(self, source: str) -> Iterator[str]:
        keys = list(super().keys(source))
        return iter(keys[1:] if self.lie == "keys hide some" else keys)

    def find(self, source: str, marker: str) -> str | None:
        return "1" if self.lie == "every marker is known" else super().find(source, marker)

    def update(self, source: str, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        if self.lie == "nobody is turned away":
            record = Record(record.key, record.values, self.stamps[source, record.key])
        super().update(source, record, values, changed)

    def delete(self, source: str, record: Record) -> None:
        if self.lie != "nothing is deleted":
            super().delete(source, record)


class Stamped(Liar):
    """One whose stamps can be measured, and whose clock is an hour late."""

    def __init__(self, lie: str = "") -> None:
        super().__init__(lie)
        self.capabilities = Capabilities(stamp="changed", precision_seconds=1e-6, deletes="keys", paging="stamp")

    def sample_stamps(self, source: str, limit: int) -> list[datetime | None]:
        return [NOW, None] if self.lie == "some have no stamp" else [NOW, NOW + timedelta(seconds=1)]

    def their_clock(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)


def wrong(connector: Ledger, write: bool = False) -> dict[str, Finding]:
    return {each.what: each for each in probe(connector, CUSTOMER, write) if each.right is False}


def test_nothing_is_wrong_with_a_true_declaration() -> None:
    assert wrong(Liar(), write=True) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lie", "what"),
    [
        ("fetch shows less", "one by key"),
        ("fetch finds none", "one by key"),
        ("keys hide some", "all keys"),
        ("every marker is known", "a marker that nobody has"),
    ],
)
def test_what_reading_shows_to_be_wrong_is_told(lie: str, what: str) -> None:
    assert what in wrong(Liar(lie))


@pytest.mark.parametrize(
    ("lie", "what"),
    [
        ("nobody is turned away", "locking"),
        ("every marker is known", "found by its marker"),
        ("nothing is deleted", "delete"),
    ],
)
def test_what_writing_shows_to_be_wrong_is_told(lie: str, what: str) -> None:
    assert what in wrong(Liar(lie), write=True)


def test_record_made_by_the_probe_is_gone_again() -> None:
    ledger = Liar()
    list(probe(ledger, CUSTOMER, write=True))
    assert sorted(ledger.records["party"]) == ["1", "2", "3"]


def test_reading_alone_writes_nothing() -> None:
    ledger = Liar()
    list(probe(ledger, CUSTOMER))
    assert ledger.written == []


def test_records_without_a_stamp_are_told() -> None:
    assert "stamp" in wrong(Stamped("some have no stamp"))


@pytest.mark.legacy("F18")
def test_precision_is_measured_and_a_clock_an_hour_off_is_no_lie_but_told() -> None:
    found = {each.what: each for each in probe(Stamped(), CUSTOMER)}
    assert found["precision"].measured.startswith("0.001 s")
    assert found["precision"].right is False, "declared finer than it is: records that share a stamp would be lost"
    assert found["clock"].measured.startswith(("3600", "3599")) and found["clock"].right is None


def test_field_that_is_never_filled_is_told() -> None:
    ledger = Liar()
    ledger.put("item", code="1", name="")
    found = {each.what: each for each in probe(ledger, PRODUCT)}
    assert found["fields"].measured == "never filled: name"
