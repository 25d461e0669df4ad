"""Deciding conflicts of a delete and an edit: a row comes back whole or stays away, as was decided."""

from uuid import uuid4

import pytest

from entities.models import Contact, Product
from sync.models import Conflict, Decision
from sync.resolve import Invalid, resolve, stakes_of
from tests.integration.conflict_support import BOSS, a_line, conflict, outcomes, rev_of, told
from tests.integration.sync_support import TestDevice

pytestmark = pytest.mark.django_db(transaction=True)
State = Conflict.State


def test_edit_of_a_deleted_row_brings_it_back_with_its_hidden_columns() -> None:
    device = TestDevice()
    product = Product.objects.create(code="A", name="A", unit_cost="7.5", units_in_stock=3, unit_price="2")
    row = str(product.pk)
    product.delete()
    found = conflict(
        device, row, {"name": "B"}, None, entity="product",
        device_values={"set": {"name": "B"}, "add": {"units_in_stock": 4}},
    )  # fmt: skip
    stakes = stakes_of(found)
    assert stakes.row_deleted and stakes.server is None
    assert stakes.device == {"name": "B", "units_in_stock": 7}
    decision = resolve(found.pk, stakes.device, rev=2, author=BOSS)
    back = Product.objects.get(pk=row)
    assert (back.name, back.units_in_stock, str(back.unit_cost), str(back.unit_price)) == ("B", 7, "7.5000", "2.0000")
    assert (decision.state, decision.before, decision.rev) == (State.DEVICE, None, 3)
    device.pull()
    assert device.of("product")[row]["name"] == "B"


def test_deleted_row_stays_deleted_where_the_server_is_kept() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    Contact.objects.filter(pk=row).delete()
    found = conflict(device, row, {"first_name": "Ina"}, None)
    choices: list[dict[str, str] | None] = [{}, None]
    for values in choices:
        decision = resolve(found.pk, values, rev=2, author=BOSS, seen=Decision.objects.count())
        assert (decision.state, decision.rev) == (State.SERVER, None)
    assert outcomes(device)[0] == ("server", None, "boss")
    assert rev_of(row) == 2


def test_row_that_the_history_forgot_comes_back_only_if_it_is_whole() -> None:
    found = conflict(TestDevice(), str(uuid4()), {"phone": "1"}, None)
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"phone": "1"}, rev=0, author=BOSS)
    assert told(refused) == [("first_name", "required")]


def test_delete_of_an_edited_row_is_kept_out_or_done() -> None:
    device = TestDevice()
    choices: list[tuple[dict[str, str] | None, State, bool]] = [({}, State.SERVER, True), (None, State.DEVICE, False)]
    for values, state, there in choices:
        row = str(Contact.objects.create(first_name="Ana").pk)
        found = conflict(device, row, {}, {"first_name": "Ana", "phone": ""}, op="delete", fields=[])
        assert resolve(found.pk, values, rev=1, author=BOSS).state == state
        assert Contact.objects.filter(pk=row).exists() == there


def test_delete_that_other_rows_forbid_is_refused() -> None:
    line = a_line()
    found = conflict(TestDevice(), str(line.product_id), {}, {"name": "A"}, op="delete", entity="product")
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, None, rev=1, author=BOSS)
    assert told(refused) == [(None, "protected")]
