"""Whole runs between the real PostgreSQL and a JSON API that loses requests and answers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection

from entities.models import Customer
from legacy.connectors.rest import Rest
from legacy.connectors.rest_http import Limits
from legacy.connectors.rest_paging import PageNumber
from legacy.connectors.rest_resource import Resource
from legacy.mapping import F, Mapping
from legacy.models import Cursor, DeadLetter, Run
from legacy.probe import Stamped, probe
from legacy.runs import run
from legacy.systems import System
from tests.integration.misbehaving import (
    Fault,
    Misbehaving,
    after,
    answer,
    busy,
    cut_after,
    delay,
    empty,
    lose_answer,
    lose_request,
    twice,
)
from tests.integration.rest_support import Api, serve

pytestmark = pytest.mark.django_db(transaction=True)
THINGS = Resource(
    "/things",
    records="data",
    one="/things/{key}",
    paging=PageNumber(size=2),
    stamp=("updated_at",),
    since=("updated_since",),
    marker="external_id",
    find_by="external_id",
    etag=True,
)
CUSTOMER = Mapping(
    "customer",
    Customer,
    THINGS,
    match="code",
    direction="both",
    deletes="both",
    fields=(F("code", "code", only="pull"), F("name", "name"), F("city", "address.city")),
)


@pytest.fixture(autouse=True)
def _without_history_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legacy.connectors.rest_http.sleep", lambda seconds: None)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


@pytest.fixture
def api() -> Iterator[Api]:
    yield from serve(Api(paging="page", size=2))


LIMITS = Limits(read_seconds=0.3)
SLOW = 0.6  # seconds: longer than that


def sync(proxy: Misbehaving, mapping: Mapping = CUSTOMER, **options: Any) -> Run:
    def connect() -> Rest:
        return Rest(proxy.url, whoami="/me", who="login", resources=(THINGS,), limits=LIMITS)

    return run(System("things", connect, (mapping,)), **options)


def cities() -> dict[str, str]:
    return dict(Customer.objects.values_list("name", "city"))


@pytest.mark.slow
@pytest.mark.legacy("L4")
def test_both_sides_come_to_the_same_and_stay_so(api: Api, proxy: Misbehaving) -> None:
    keys = [api.put(code=name.upper(), name=name, address={"city": "Bonn"}) for name in ("Ana", "Bea", "Cleo")]
    assert sync(proxy).state == "done"
    assert cities() == {"Ana": "Bonn", "Bea": "Bonn", "Cleo": "Bonn"}

    api.put(keys[0], address={"city": "Köln"})
    Customer.objects.get(name="Bea").save()  # touched, and not changed
    bea = Customer.objects.get(name="Bea")
    bea.city = "Mainz"
    bea.save()
    Customer.objects.create(name="Dora", city="Trier")
    assert sync(proxy).state == "done"
    assert cities() == {"Ana": "Köln", "Bea": "Mainz", "Cleo": "Bonn", "Dora": "Trier"}
    assert {raw["name"]: raw["address"]["city"] for raw in api.records.values()} == cities()

    done = list(api.done)
    assert sync(proxy).state == "done"
    assert api.done == done  # no echo


@pytest.mark.slow
@pytest.mark.legacy("S12")
@pytest.mark.legacy("F3")
@pytest.mark.parametrize("fault", [lose_answer, delay(SLOW), cut_after(5)], ids=["lost", "late", "cut"])
def test_create_whose_answer_was_lost_is_made_once(api: Api, proxy: Misbehaving, fault: Fault) -> None:
    Customer.objects.create(name="Dora", city="Trier")
    proxy.when(fault, method="POST")
    assert sync(proxy).state == "unreachable"
    assert sync(proxy).state == "done"
    assert [raw["name"] for raw in api.records.values()] == ["Dora"]
    assert cities() == {"Dora": "Trier"}


@pytest.mark.legacy("L3")
def test_one_record_that_breaks_their_server_holds_nothing_else_up(api: Api, proxy: Misbehaving) -> None:
    Customer.objects.create(name="break down", city="Trier")
    Customer.objects.create(name="Dora", city="Trier")
    sync(proxy)
    assert [raw["name"] for raw in api.records.values()] == ["Dora"]
    assert "KeyError: 'name'" in DeadLetter.objects.get().error


@pytest.mark.slow
@pytest.mark.legacy("L2")
@pytest.mark.legacy("F2")
@pytest.mark.parametrize(
    "fault",
    [answer(503), answer(500), lose_request, cut_after(40), empty, delay(SLOW)],
    ids="503 500 down cut empty late".split(),
)
def test_run_that_died_between_pages_goes_on(api: Api, proxy: Misbehaving, fault: Fault) -> None:
    for number in range(7):
        api.put(code=str(number), name=str(number))
    proxy.when(fault, path="&page=2", times=None)
    assert sync(proxy).state == "unreachable"
    assert Customer.objects.count() == 2
    proxy.calm()
    assert sync(proxy).state == "done"
    assert Customer.objects.count() == 7


@pytest.mark.slow
@pytest.mark.legacy("S8")
@pytest.mark.legacy("F11")
def test_deletions_go_both_ways(api: Api, proxy: Misbehaving) -> None:
    keys = [api.put(code=name.upper(), name=name, address={"city": "Bonn"}) for name in ("Ana", "Bea", "Cleo", "Dora")]
    sync(proxy)
    api.drop(keys[0])
    Customer.objects.get(name="Bea").delete()
    assert sync(proxy, force=True).state == "done"
    Cursor.objects.update(swept_at=None)  # a day later
    assert sync(proxy, force=True).state == "done"
    assert cities() == {"Cleo": "Bonn", "Dora": "Bonn"}
    assert [raw["name"] for raw in api.records.values()] == ["Cleo", "Dora"]


@pytest.mark.slow
@pytest.mark.legacy("S4")
@pytest.mark.legacy("S8")
@pytest.mark.legacy("F11")
def test_record_that_a_list_hides_is_looked_up_and_not_deleted(api: Api, proxy: Misbehaving) -> None:
    keys = [api.put(code=name.upper(), name=name, address={"city": "Bonn"}) for name in ("Ana", "Bea", "Cleo")]
    sync(proxy)
    api.put(keys[0], archived=True)
    api.drop(keys[1])
    Cursor.objects.update(swept_at=None)  # a day later
    proxy.calm()
    assert sync(proxy).counts["customer"]["deleted"] == 1
    asked = {request.path for request in proxy.seen if request.path.count("/") > 2}
    assert {f"/v1/things/{key}" for key in keys[:2]} <= asked
    assert set(cities()) == {"Ana", "Cleo"}


@pytest.mark.slow
@pytest.mark.legacy("L6")
@pytest.mark.legacy("S6")
@pytest.mark.parametrize(
    ("who", "words"),
    [(b'{"login": "guest"}', "knows us as 'guest'"), (b"", "would delete 4 of 6")],
    ids=["told", "not"],
)
def test_key_that_expired_and_still_shows_some_deletes_nothing(
    api: Api, proxy: Misbehaving, who: bytes, words: str, settings: LazySettings
) -> None:
    """They answer with 200 and what everybody may see; `who we are` tells, and where it does not, how few there are."""
    settings.LEGACY_STOP_RECORDS_MIN = 2
    for number in range(6):
        api.put(code=str(number), name=str(number))
    sync(proxy)
    Cursor.objects.update(swept_at=None)  # a day later
    for key in list(api.records)[2:]:
        api.drop(key)
    if who:
        proxy.when(answer(200, who, {"Content-Type": "application/json"}), path="/me", times=None)
    done = sync(proxy)
    assert (done.state, words in done.error) == ("stopped", True), done.error
    assert Customer.objects.count() == 6


@pytest.mark.slow
@pytest.mark.legacy("S11")
@pytest.mark.parametrize("etag", [True, False])
def test_edit_that_comes_between_our_look_and_our_write_is_not_overwritten(
    api: Api, proxy: Misbehaving, etag: bool
) -> None:
    mapping = replace(CUSTOMER, source=replace(THINGS, etag=etag))
    key = api.put(code="ANA", name="Ana", address={"city": "Bonn"})
    sync(proxy, mapping)
    Customer.objects.update(name="Anna")
    proxy.when(after(lambda: api.put(key, address={"city": "Köln"})), path=f"/things/{key}", method="GET")
    assert sync(proxy, mapping).state == "done"
    assert (api.records[key]["name"], api.records[key]["address"]["city"]) == ("Anna", "Köln")
    assert cities() == {"Anna": "Köln"}


@pytest.mark.slow
@pytest.mark.legacy("S14")
@pytest.mark.parametrize(("absent", "city"), [("keep", "Bonn"), ("clear", ""), ("ignore", "Bonn")])
def test_place_that_an_api_leaves_out_is_not_null(api: Api, proxy: Misbehaving, absent: Any, city: str) -> None:
    lines = [replace(line, absent=absent) if line.ours == "city" else line for line in CUSTOMER.fields]
    mapping = replace(CUSTOMER, fields=tuple(lines))
    key = api.put(code="ANA", name="Ana", address={"city": "Bonn"})
    sync(proxy, mapping)
    api.put(key, name="Anna", address={})
    assert sync(proxy, mapping).state == "done"
    assert cities() == {"Anna": city}
    api.put(key, address={"city": None})
    assert sync(proxy, mapping).state == "done"
    assert cities() == {"Anna": ""}


FAULTS: dict[str, Fault] = {
    "late": delay(SLOW),
    "cut": cut_after(20),
    "500": answer(500),
    "429": busy(429, "1"),
    "503": busy(503, "1"),
    "wrong key": answer(401, b'{"detail": "who are you?"}', {"Content-Type": "application/json"}),
    "empty": empty,
    "doubled": twice,
    "answer lost": lose_answer,
    "request lost": lose_request,
}


@pytest.mark.legacy("F21")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("fault", FAULTS)
def test_both_sides_are_equal_after_a_fault_at_any_kind_of_call(
    api: Api, proxy: Misbehaving, fault: str, method: str
) -> None:
    api.idempotent = True
    mapping = replace(CUSTOMER, source=replace(THINGS, idempotency_header="Idempotency-Key"))
    keys = [api.put(code=name.upper(), name=name, address={"city": "Bonn"}) for name in ("Ana", "Bea", "Cleo")]
    sync(proxy, mapping)
    api.put(keys[0], address={"city": "Köln"})
    Customer.objects.filter(name="Bea").update(city="Mainz")
    Customer.objects.create(name="Dora", city="Trier")
    Customer.objects.get(name="Cleo").delete()
    proxy.when(FAULTS[fault], path="/things", method=method)
    for _ in range(2):
        sync(proxy, mapping)
    assert cities() == {"Ana": "Köln", "Bea": "Mainz", "Dora": "Trier"}
    assert sorted((raw["name"], raw["address"]["city"]) for raw in api.records.values()) == sorted(cities().items())
    assert not DeadLetter.objects.exists()
    assert api.done.count(("create", "4")) == 1


def test_declaration_fits_what_is_measured(api: Api, proxy: Misbehaving) -> None:
    for name in ("Ana", "Bea", "Cleo"):
        api.put(code=name.upper(), name=name, address={"city": "Bonn"})
    rest = Rest(proxy.url, whoami="/me", who="login", resources=(replace(THINGS, precision_seconds=1e-6),))
    rest.open()
    found = {each.what: each.right for each in probe(rest, CUSTOMER, write=True)}
    rest.close()
    assert isinstance(rest, Stamped)
    assert found["precision"] is True
    assert False not in found.values(), found


def test_parameter_that_the_api_passes_over_is_told(api: Api, proxy: Misbehaving) -> None:
    for name in ("Ana", "Bea"):
        api.put(code=name.upper(), name=name, address={"city": "Bonn"})
        api.tick(7_200)
    found = {}
    for since in ("updated_since", "changed_after"):
        source = replace(THINGS, since=(since,))
        rest = Rest(proxy.url, whoami="/me", who="login", resources=(source,))
        rest.open()
        measured = {each.what: each for each in probe(rest, replace(CUSTOMER, source=source))}["changed since"]
        found[since] = (measured.right, measured.measured)
        rest.close()
    assert found == {"updated_since": (True, "1 of 2 records again"), "changed_after": (False, "2 of 2 records again")}
