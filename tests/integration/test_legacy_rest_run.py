"""Whole runs between the real PostgreSQL and a JSON API that loses requests and answers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from entities.models import Customer
from legacy.connectors.rest import Rest
from legacy.connectors.rest_paging import PageNumber
from legacy.connectors.rest_resource import Resource
from legacy.mapping import F, Mapping
from legacy.models import Cursor, DeadLetter, Run
from legacy.probe import Stamped, probe
from legacy.runs import run
from legacy.systems import System
from tests.integration.misbehaving import Misbehaving, answer, lose_answer
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


def sync(proxy: Misbehaving, **options: Any) -> Run:
    return run(
        System("things", lambda: Rest(proxy.url, whoami="/me", who="login", resources=(THINGS,)), (CUSTOMER,)),
        **options,
    )


def cities() -> dict[str, str]:
    return dict(Customer.objects.values_list("name", "city"))


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


def test_create_whose_answer_was_lost_is_made_once(api: Api, proxy: Misbehaving) -> None:
    Customer.objects.create(name="Dora", city="Trier")
    proxy.when(lose_answer, method="POST")
    assert sync(proxy).state == "unreachable"
    assert sync(proxy).state == "done"
    assert [raw["name"] for raw in api.records.values()] == ["Dora"]
    assert cities() == {"Dora": "Trier"}


def test_one_record_that_breaks_their_server_holds_nothing_else_up(api: Api, proxy: Misbehaving) -> None:
    Customer.objects.create(name="break down", city="Trier")
    Customer.objects.create(name="Dora", city="Trier")
    sync(proxy)
    assert [raw["name"] for raw in api.records.values()] == ["Dora"]
    assert "KeyError: 'name'" in DeadLetter.objects.get().error


def test_run_that_died_between_pages_goes_on(api: Api, proxy: Misbehaving) -> None:
    for number in range(7):
        api.put(code=str(number), name=str(number))
    proxy.when(answer(503), path="&page=2", times=None)
    assert sync(proxy).state == "unreachable"
    assert Customer.objects.count() == 2
    proxy.calm()
    assert sync(proxy).state == "done"
    assert Customer.objects.count() == 7


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
