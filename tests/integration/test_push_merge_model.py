"""Random histories through the whole of push, held against the plainest server there can be: U10."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entities.models import Contact, Customer, Product
from sync.decide import Verdict
from sync.models import Conflict
from sync.mutation import Values
from sync.rules import rules_of
from sync.wire import entities
from tests.integration.sync_support import COUNTRY, TestDevice, sql, update
from tests.unit.merge_model import Edit, Server

pytestmark = pytest.mark.django_db(transaction=True)

# Every policy there is, a unit and a counter: the fields of each entity that the test changes.
FIELDS: dict[str, tuple[str, ...]] = {
    "customer": ("name", "phone", "fax", "address", "city"),
    "contact": ("first_name", "note"),
    "product": ("name", "discontinued"),
}
MODELS: dict[str, type[Any]] = {"customer": Customer, "contact": Contact, "product": Product}
START = {
    "customer": {"name": "0", "country": COUNTRY},
    "contact": {"first_name": "0"},
    "product": {"name": "0", "code": "0"},
}


def values(entity: str) -> st.SearchStrategy[dict[str, Any]]:
    value = {"discontinued": st.booleans()}
    fields = {name: value.get(name, st.sampled_from("123")) for name in FIELDS[entity]}
    return st.fixed_dictionaries({}, optional=fields)


def steps(entity: str) -> st.SearchStrategy[tuple[str, Any]]:
    amounts = st.dictionaries(st.just("units_in_stock"), st.integers(1, 9)) if entity == "product" else st.just({})
    base = st.integers(0, 3)  # how many revisions the device lags behind
    batch = st.lists(st.tuples(values(entity), amounts, base), min_size=1, max_size=3)
    office = st.tuples(st.just("office"), values(entity).filter(bool))
    return office | st.tuples(st.sampled_from("ab"), batch)


cases = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda entity: st.tuples(st.just(entity), st.lists(steps(entity), min_size=1, max_size=7))
)


@pytest.mark.slow
@pytest.mark.protocol("U10")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases)
def test_push_decides_as_the_plainest_server_would(case: tuple[str, list[tuple[str, Any]]]) -> None:
    entity, found = case
    MODELS[entity].objects.all().delete()
    Conflict.objects.all().delete()
    row = str(MODELS[entity].objects.create(**START[entity]).pk)
    before = {name: value for name, value in wire(entity, row).items() if name not in {"id", "_rev"}}
    model = Server(rules_of(entities()[entity]), before)
    devices = {name: TestDevice() for name in "ab"}
    for who, what in found:
        if who == "office":
            MODELS[entity].objects.filter(pk=row).update(**what)
            model.write(who, Values(what, {}))
            continue
        last = max(model.rev - lag for _, _, lag in what)
        edits = [Edit(who, max(1, min(model.rev - lag, last)), fields, amounts) for fields, amounts, lag in what]
        edits.sort(key=lambda edit: edit.base)
        mutations = [update(row, edit.base, entity, **edit.set) | {"add": edit.add} for edit in edits]
        verdicts = [model.push(edit) for edit in edits]
        results = devices[who].push(*mutations)
        assert [result["status"] for result in results] == [verdict.status for verdict in verdicts]
        now = wire(entity, row)
        assert {name: now[name] for name in model.row} == model.row
        assert now["_rev"] == model.rev
        for mutation, verdict in zip(mutations, verdicts, strict=True):
            check_record(mutation["id"], verdict)


def check_record(mutation: str, verdict: Verdict) -> None:
    kept = Conflict.objects.filter(mutation=mutation).first()
    record = verdict.record
    assert (kept is None) == (record is None)
    if kept is not None and record is not None:
        assert (kept.state, set(kept.fields), kept.base, kept.server) == (
            record.decision,
            set(record.fields),
            record.base,
            record.server,
        )


def wire(entity: str, row: str) -> dict[str, Any]:
    """The row as devices have it."""
    (data,) = sql("SELECT data FROM sync_feed WHERE row_id = %s AND entity = %s", [row, entity])[0]
    found: dict[str, Any] = json.loads(data)
    return found
